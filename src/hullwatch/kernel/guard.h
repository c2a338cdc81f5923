/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What policy says, asked at the moment of the action. User space has put all the answers that there
 * can be into a map beforehand: one for each kind of workload, action, set of labels, and row, which
 * stands for all paths (or networks and names) that the policies in force cannot tell apart. So
 * nobody is asked here, and nothing is waited for or allocated.
 *
 * All of a set of policies bears its generation. A new set is filled in beside the old one, and
 * settings.policy goes from one to the other at once.
 */
#ifndef HULLWATCH_GUARD_H
#define HULLWATCH_GUARD_H

#include "label.h"
#include "socket.h"

#define EPERM 1
#define GUARD_DEPTH 12 /* levels of cgroups below the root that are looked at */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* cgroup of a container */
	__type(value, struct hw_guarded);
} guarded SEC(".maps");

/* Which scope a cgroup came out to be in, at any level below. */
struct guard_leaf { u32 generation, changes, scope, pad; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct guard_leaf);
} guard_leaves SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hw_guard_key);
	__type(value, struct hw_guard_value);
} guard_answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hw_guard_net);
	__type(value, u32);
} guard_nets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct hw_guard_port);
	__type(value, u16);
} guard_ports SEC(".maps");

/* Not an LRU: what a name was asked for is what the answer stands on. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hw_guard_name);
	__type(value, u32);
} guard_names SEC(".maps");

/*
 * Processes that run a program of their container. One that is in its cgroup and does not is the
 * runtime's, which sets it up.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u32); /* tgid */
	__type(value, u64); /* process key; 0: as user space said */
} guard_inside SEC(".maps");

struct guard_path {
	struct path_now of;
	u32 generation;
	u32 unknown; /* there is no path that could be asked about */
	u32 rows[HW_GUARD_ROWS];
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct path_key);
	__type(value, struct guard_path);
} guard_paths SEC(".maps");

/* ---- who ---------------------------------------------------------------------------------- */

HOT u32 scope_in(u64 cgroup, u32 generation)
{
	struct hw_guarded *g = bpf_map_lookup_elem(&guarded, &cgroup);

	if (!g)
		return 0;
	return g->generation[generation & 1] == generation ? g->scope[generation & 1] : 0;
}

/* Of whoever runs now; 0: nobody that policies speak of. The outermost container counts. */
__noinline u32 scope_here(u32 generation)
{
	u64 cgroup = bpf_get_current_cgroup_id(), above;
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup), new = {};
	int level;

	if (known && known->generation == generation && known->changes == settings.policy_changes)
		return known->scope;
	new.generation = generation;
	new.changes = settings.policy_changes;
	for (level = 1; level <= GUARD_DEPTH; level++) {
		above = bpf_get_current_ancestor_cgroup_id(level);
		if (!above)
			break;
		new.scope = scope_in(above, generation);
		if (new.scope)
			break;
	}
	bpf_map_update_elem(&guard_leaves, &cgroup, &new, BPF_ANY);
	return new.scope;
}

HOT bool is_inside(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 *key = bpf_map_lookup_elem(&guard_inside, &tgid);

	return key && (!*key || *key == key_of((void *)bpf_get_current_task()));
}

HOT bool in_host_mounts(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == settings.host_mnt;
}

__noinline int put_inside(u32 tgid, u64 proc, u64 cgroup)
{
	if (bpf_map_update_elem(&guard_inside, &tgid, &proc, BPF_ANY))
		lost(HW_L_GUARD, HW_POLICY, cgroup);
	return 0;
}

__noinline int guard_exec(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 generation = settings.policy;

	if (generation && scope_here(generation) && !in_host_mounts())
		put_inside(BPF_CORE_READ(task, tgid), key_of(task), cgroup_of(task));
	return 0;
}

HOT void guard_fork(u32 child_tgid, u64 child)
{
	if (settings.policy && is_inside())
		put_inside(child_tgid, child, bpf_get_current_cgroup_id());
}

HOT void guard_exit(u32 tgid)
{
	bpf_map_delete_elem(&guard_inside, &tgid);
}

/* ---- what is said ------------------------------------------------------------------------- */

struct guard {
	struct hw_guard_key key;
	u32 holds; /* enum hw_holds, orphaned above now */
	u32 without; /* of them, what does not count */
};

#define EVERY(holds) ((holds) | (holds) << 16)

/* One row more; false: there is no answer. */
HOT bool guard_row(struct guard *g, u32 row)
{
	struct hw_guard_key key = g->key; /* a map's key may not be memory of the caller's before 6.3 */
	struct hw_guard_value *v;

	key.row = row;
	v = bpf_map_lookup_elem(&guard_answers, &key);
	if (!v)
		return false;
	g->holds |= (v->now | (u32)v->orphaned << 16) & ~g->without;
	return true;
}

HOT bool stops(u32 holds)
{
	return holds & HW_G_BLOCK || (holds & (HW_G_LISTED | HW_G_PERMIT)) == HW_G_LISTED;
}

HOT bool would_stop(u32 holds)
{
	return holds & HW_G_WOULD_BLOCK ||
	       (holds & (HW_G_WOULD_LIST | HW_G_WOULD_PERMIT)) == HW_G_WOULD_LIST;
}

enum { PASSES, TOLD, STOPPED };

/* Once the agent is gone, only what was to outlive it stops anything. */
HOT int guard_says(const struct guard *g)
{
	u32 holds = g->holds & 0xffff;

	if (stops(holds)) {
		if (bpf_ktime_get_boot_ns() >> 30 <= settings.policy_alive)
			return STOPPED;
		return stops(g->holds >> 16) ? STOPPED : PASSES;
	}
	return would_stop(holds) ? TOLD : PASSES;
}

/* Whether the process in hand is one that policies speak of for this action. */
HOT void guard_fill(struct guard *g, u32 generation, u32 scope, u16 action, u32 labels)
{
	__builtin_memset(g, 0, sizeof(*g));
	g->key.generation = generation;
	g->key.scope = scope;
	g->key.action = action;
	g->key.facts = labels & settings.policy_facts[generation & 1] & ~HW_FACT_UPPER;
}

HOT bool guard_begin(struct guard *g, u16 action)
{
	u32 generation = settings.policy, scope;

	if (!generation)
		return false;
	scope = scope_here(generation);
	if (!scope)
		return false;
	guard_fill(g, generation, scope, action, settings.labels & HW_CARRIED ? own_labels() : 0);
	return true;
}

/* In the scratch: GUARD_PATH is done with by then. num: of HW_POLICY, see sensor/events.py. */
__noinline int guard_tell(u32 action_done, u32 obj, u64 num, u16 port)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	struct scratch *s = scratch_get(HW_POLICY, cgroup);
	struct hw_event *e;
	struct who w;

	if (!s)
		return 0;
	current_who(&w);
	e = (void *)s->data;
	event_fill(e, &w, HW_POLICY, 0);
	e->flags = action_done;
	e->ret = action_done >> 16 == HW_DONE_TOLD ? 0 : -EPERM;
	e->num = num;
	e->num2 = settings.policy;
	e->port = port;
	if (obj == SHED)
		e->marks |= HW_M_STR_LOST;
	else
		e->obj = obj;
	/* Whoever tries again and again is counted, and cannot crowd out what others do. */
	w.same = action_done;
	if (!repeated(&w, e->obj, (u32)num, HW_POLICY, true))
		send_first(e);
	scratch_put(s);
	return 0;
}

/* ---- paths -------------------------------------------------------------------------------- */

#define GUARD_PATH 512 /* in the scratch, as all of this stands on deep stacks */

HOT bool is_pseudo(struct dentry *dentry)
{
	u64 magic = BPF_CORE_READ(dentry, d_sb, s_magic);

	return magic == PIPEFS_MAGIC || magic == TMPFS_MAGIC || magic == PROC_MAGIC;
}

/* Rows of the path that is in s->data[start .. PATH_END), for a first or a second name. */
HOT void guard_match(struct scratch *s, u32 start, u32 table, bool second)
{
	struct guard_path *p;
	struct path_match *m;
	u32 i;

	if (start > PATH_END)
		return;
	path_match(s, start, PATH_END - start, table);
	m = (void *)&s->data[PATH_MATCH];
	p = (void *)&s->data[GUARD_PATH];
	for (i = 0; i < HW_GUARD_ROWS / 2; i++) {
		if (second)
			p->rows[HW_GUARD_ROWS / 2 + i] = m->found[i];
		else
			p->rows[i] = m->found[i];
	}
}

/*
 * The container's own files have a second name where they are mounted once more: where they lie in
 * their file system. It can only forbid.
 */
__noinline int guard_walk(struct scratch *s, u64 mnt, u64 dentry, u32 table)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 want = 0, start;
	struct dentry *d = (void *)dentry, *root = BPF_CORE_READ(task, fs, root.dentry);
	struct path_walk w = {};

	if (!s)
		return 0;
	start = path_build(s, (void *)mnt, d, &want);
	if (start > PATH_END)
		return 0;
	/* What is too long has lost its beginning; what is not below a mount has no path. */
	if (want > PATH_END - start || (s->data[start & (2 * ARGV_ROOM - 1)] != '/' && !is_pseudo(d)))
		((struct guard_path *)&s->data[GUARD_PATH])->unknown = 1;
	guard_match(s, start, table, false);
	if (mnt == (u64)BPF_CORE_READ(task, fs, root.mnt) || BPF_CORE_READ(d, d_sb) != BPF_CORE_READ(root, d_sb))
		return 0;
	w.data = s->data;
	w.dentry = d;
	w.pos = PATH_END;
	w.within = BPF_CORE_READ(d, d_sb, s_root);
	bpf_loop(2048 + 64, path_step, &w, 0);
	if (w.pos < PATH_END)
		guard_match(s, w.pos, table, true);
	return 0;
}

/* A map's value may not be memory of the caller's before 6.3. */
__noinline int guard_keep(struct scratch *s, u64 mnt, u64 dentry)
{
	struct path_key key = { .dentry = dentry, .mnt = mnt };
	struct guard_path p;

	if (!s)
		return 0;
	p = *(struct guard_path *)&s->data[GUARD_PATH];
	bpf_map_update_elem(&guard_paths, &key, &p, BPF_ANY);
	return 0;
}

/* What there is of an object in the scratch: as it is known, or found out. */
__noinline int guard_known(struct scratch *s, u64 mnt, u64 dentry, u32 generation)
{
	struct path_key key = { .dentry = dentry, .mnt = mnt };
	struct guard_path *new, *p;

	if (!s)
		return 0;
	new = (void *)&s->data[GUARD_PATH];
	__builtin_memset(new, 0, sizeof(*new));
	path_now(&new->of, mnt, dentry);
	new->generation = generation;
	p = bpf_map_lookup_elem(&guard_paths, &key);
	if (p && p->generation == generation && is_same_path(&p->of, &new->of)) {
		*new = *p;
		return 0;
	}
	guard_walk(s, mnt, dentry, 1 + (generation & 1));
	guard_keep(s, mnt, dentry);
	return 0;
}

#define SECOND_NAME (HW_G_PERMIT | HW_G_LISTED | HW_G_WOULD_PERMIT | HW_G_WOULD_LIST)

/* Answers for a path. Returns what guard_says. */
__noinline int guard_path(struct guard *g, u64 mnt, u64 dentry)
{
	struct guard_path *p;
	struct scratch *s;
	u32 i;

	if (!g || !guard_row(g, HW_ROW_ANY))
		return PASSES; /* no policy speaks of such a thing */
	s = scratch_get(HW_POLICY, bpf_get_current_cgroup_id());
	if (!s) {
		guard_row(g, HW_ROW_UNKNOWN);
		return guard_says(g);
	}
	guard_known(s, mnt, dentry, g->key.generation);
	p = (void *)&s->data[GUARD_PATH];
	if (p->unknown)
		guard_row(g, HW_ROW_UNKNOWN);
	for (i = 0; i < HW_GUARD_ROWS; i++) {
		if (i == HW_GUARD_ROWS / 2) /* what a second name permits is not permitted by it */
			g->without |= EVERY(SECOND_NAME);
		if (p->rows[i] && !guard_row(g, p->rows[i]))
			guard_row(g, HW_ROW_UNKNOWN);
	}
	scratch_put(s);
	return guard_says(g);
}

HOT void guard_facts(struct guard *g, struct inode *inode)
{
	if (settings.policy_facts[g->key.generation & 1] & HW_FACT_UPPER && on_overlay(inode) && on_upper_layer(inode))
		g->key.facts |= HW_FACT_UPPER;
}

/* One question about a path, with what is told. 0, or -EPERM. */
__noinline int guard_asks(u32 action_done, u64 mnt, u64 dentry, u64 inode, u64 num)
{
	u16 action = action_done;
	struct guard g;
	int says;

	if (!guard_begin(&g, action))
		return 0;
	if (inode)
		guard_facts(&g, (void *)inode);
	if (action == HW_A_PRIVILEGE)
		g.key.port = num;
	if (action == HW_A_EXEC && num == HW_MAPPED)
		g.without = EVERY(HW_G_LISTED | HW_G_WOULD_LIST);
	says = guard_path(&g, mnt, dentry);
	if (says == PASSES)
		return 0;
	if (says == TOLD)
		action_done = action;
	guard_tell(action_done, path_id(mnt, dentry, 0, HW_POLICY, bpf_get_current_cgroup_id()), num, 0);
	return says == STOPPED ? -EPERM : 0;
}

HOT int guard_file(u32 action, struct file *file, u64 num)
{
	return guard_asks(action | HW_DONE_DENIED << 16, (u64)BPF_CORE_READ(file, f_path.mnt),
			  (u64)BPF_CORE_READ(file, f_path.dentry), (u64)BPF_CORE_READ(file, f_inode), num);
}

/* ---- network ------------------------------------------------------------------------------ */

struct guard_end { u8 addr[16]; u32 port; };

HOT void end_v4(struct guard_end *end, u32 ip, u32 port)
{
	__builtin_memset(end, 0, sizeof(*end));
	end->addr[10] = end->addr[11] = 0xff;
	__builtin_memcpy(end->addr + 12, &ip, 4);
	end->port = port;
}

/* For what cannot be told: as the policies fail. */
HOT int guard_unknown(struct guard *g)
{
	g->key.name = g->key.port = 0;
	guard_row(g, HW_ROW_UNKNOWN);
	return guard_says(g);
}

/* Answers for one end of a network; g->key holds who asks. */
__noinline int guard_net(struct guard *g, const struct guard_end *end)
{
	struct hw_guard_net net = { .prefix = 160 };
	struct hw_guard_name name = {};
	struct hw_guard_port port = {};
	u32 generation, row = HW_ROW_ANY, *found;
	u16 *named;

	if (!g || !end)
		return PASSES;
	generation = g->key.generation;
	port.generation = name.generation = generation;
	port.port = end->port;
	named = bpf_map_lookup_elem(&guard_ports, &port);
	g->key.port = named ? *named : 0;
	*(u32 *)net.generation = bpf_htonl(generation);
	__builtin_memcpy(net.addr, end->addr, 16);
	found = bpf_map_lookup_elem(&guard_nets, &net);
	if (found)
		row = *found;
	name.scope = g->key.scope;
	__builtin_memcpy(name.addr, end->addr, 16);
	/* Of what listens no name is asked for. */
	found = g->key.action == HW_A_CONNECT ? bpf_map_lookup_elem(&guard_names, &name) : 0;
	g->key.name = found ? *found : 0;
	return guard_row(g, row) ? guard_says(g) : guard_unknown(g);
}

/* A socket whose packets the hooks here do not see, or cannot read. True: it may not be made. */
__noinline int guard_socket(u32 family, u32 type, u32 protocol)
{
	struct guard g;
	int says;

	if (!guard_begin(&g, HW_A_CONNECT))
		return false;
	says = guard_unknown(&g);
	if (says != PASSES)
		guard_tell(HW_A_CONNECT | (says == STOPPED ? HW_DONE_DENIED : HW_DONE_TOLD) << 16, 0,
			   (u64)family << 16 | (type & 0xff) << 8 | (protocol & 0xff), 0);
	return says == STOPPED;
}

/* ---- open connections --------------------------------------------------------------------- */

HOT u32 scope_of_packet(struct __sk_buff *skb, u32 generation)
{
	u64 cgroup = bpf_skb_cgroup_id(skb), above;
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup);
	u32 scope;
	int level;

	if (known && known->generation == generation && known->changes == settings.policy_changes)
		return known->scope;
	for (level = 1; level <= GUARD_DEPTH; level++) {
		above = bpf_skb_ancestor_cgroup_id(skb, level);
		if (!above)
			return 0;
		scope = scope_in(above, generation);
		if (scope)
			return scope;
	}
	return 0;
}

/*
 * Whoever opened it may have read something since: then it would not be let out any more, and nor is
 * what it sends. True: to be dropped.
 */
__noinline int guard_packet(const struct guard_end *end, u32 scope, u32 labels)
{
	struct guard g;

	if (!end)
		return false;
	guard_fill(&g, settings.policy, scope, HW_A_CONNECT, labels);
	return guard_net(&g, end) == STOPPED;
}

#endif
