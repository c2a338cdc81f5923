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
struct guard_leaf { u32 generation, changes, scope, pad; u64 container; };
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

/* By scope, a profile of a baseline; 0: all it does is known, as it is still being learnt. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hw_guard_scope);
	__type(value, u32);
} guard_profiles SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct hw_guard_seen);
	__type(value, u8);
} guard_seen SEC(".maps");

/*
 * Processes that run a program of their container. One that is in its cgroup and does not is the
 * runtime's, which sets it up. As many as a host can have, or else whoever forks enough gets out.
 */
struct guard_inside { u64 proc, container; }; /* process key; its cgroup, 0 until it is asked about */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32); /* tgid */
	__type(value, struct guard_inside);
} guard_inside SEC(".maps");

/* Containers whose opens or execs are held through fanotify. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64); /* cgroup of a container */
	__type(value, struct hw_guard_asked);
} guard_asked SEC(".maps");

struct guard_path {
	struct path_now of;
	u32 generation;
	u16 unknown; /* there is no path that could be asked about */
	u8 secrets[2]; /* ranks among the places of secrets, by each name; 0: it is none */
	u32 rows[HW_GUARD_ROWS];
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct path_key);
	__type(value, struct guard_path);
} guard_paths SEC(".maps");

HOT bool speaks_of_secrets(void)
{
	return settings.policy_secrets[settings.policy & 1];
}

/* ---- who ---------------------------------------------------------------------------------- */

HOT u32 scope_in(u64 cgroup, u32 generation)
{
	struct hw_guarded *g = bpf_map_lookup_elem(&guarded, &cgroup);

	if (!g)
		return 0;
	return g->generation[generation & 1] == generation ? g->scope[generation & 1] : 0;
}

/* A process that came with a container and has moved to another cgroup is still that container's. */
HOT u64 container_left(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct guard_inside *in = bpf_map_lookup_elem(&guard_inside, &tgid);

	return in && in->proc == key_of((void *)bpf_get_current_task()) ? in->container : 0;
}

HOT u32 scope_left(u32 generation)
{
	u64 container = container_left();

	return container ? scope_in(container, generation) : 0;
}

/* Of whoever runs now; 0: nobody that policies speak of. The outermost container counts. */
__noinline u32 scope_here(u32 generation)
{
	u64 cgroup = bpf_get_current_cgroup_id(), above;
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup), new = {};
	int level;

	if (known && known->generation == generation && known->changes == settings.policy_changes)
		return known->scope ? known->scope : scope_left(generation);
	new.generation = generation;
	new.changes = settings.policy_changes;
	for (level = 1; level <= GUARD_DEPTH; level++) {
		above = bpf_get_current_ancestor_cgroup_id(level);
		if (!above)
			break;
		new.scope = scope_in(above, generation);
		if (new.scope) {
			new.container = above;
			break;
		}
	}
	bpf_map_update_elem(&guard_leaves, &cgroup, &new, BPF_ANY);
	return new.scope ? new.scope : scope_left(generation);
}

/* Of a process for which scope_here has found something. */
HOT u64 container_here(void)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup);

	return known && known->container ? known->container : container_left();
}

HOT bool has_host_mounts(struct task_struct *task)
{
	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == settings.host_mnt;
}

HOT bool in_host_mounts(void)
{
	return has_host_mounts((void *)bpf_get_current_task());
}

/* Once one was not noted, whoever is not noted may be that one. */
HOT bool is_inside(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct guard_inside *in = bpf_map_lookup_elem(&guard_inside, &tgid);

	if (in && in->proc == key_of((void *)bpf_get_current_task()))
		return true;
	return settings.policy_crowded && !in_host_mounts();
}

HOT void remember_container(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct guard_inside *in = bpf_map_lookup_elem(&guard_inside, &tgid);

	if (in && !in->container)
		in->container = container_here();
}

__noinline int put_inside(u32 tgid, u64 proc, u64 container)
{
	struct guard_inside in = { .proc = proc, .container = container };

	if (bpf_map_update_elem(&guard_inside, &tgid, &in, BPF_ANY)) {
		settings.policy_crowded = 1;
		lost(HW_L_GUARD, HW_POLICY, container);
	}
	return 0;
}

/* With no policy in force, too: the next one counts for whoever runs already. */
__noinline int guard_exec(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 generation = settings.policy;
	u64 container = 0;

	if (in_host_mounts() && !container_left())
		return 0;
	if (generation && scope_here(generation))
		container = container_here();
	return put_inside(BPF_CORE_READ(task, tgid), key_of(task), container);
}

HOT void guard_fork(u32 child_tgid, u64 child)
{
	u32 generation = settings.policy;
	u64 container = 0;

	if (!is_inside())
		return;
	if (generation && scope_here(generation))
		container = container_here();
	put_inside(child_tgid, child, container);
}

/* It sets containers up, or has nothing to do with one; whoever has come out of one is none of these. */
HOT bool is_of_host(void)
{
	return in_host_mounts() && !is_inside();
}

/* One that was there before. */
HOT void guard_found(struct task_struct *task, u32 tgid, u64 proc)
{
	if (BPF_CORE_READ(task, mm) && !has_host_mounts(task))
		put_inside(tgid, proc, 0);
}

HOT void guard_exit(u32 tgid)
{
	bpf_map_delete_elem(&guard_inside, &tgid);
	/* Before fanotify lets go of what they held: the kernel asks about an exec after that. */
	if (tgid == settings.policy_keepers[0] || tgid == settings.policy_keepers[1] || tgid == fixed.own_tgid)
		settings.policy_keepers[0] = settings.policy_keepers[1] = 0;
}

/* ---- what a container carries --------------------------------------------------------------- */

/*
 * Records of labels are bounded, and whoever makes many can have others forgotten. So of each
 * container it is kept what any of it has carried, for a connection whose owner is not known any more;
 * and what all of it is taken to carry, since some of it could not be noted, or is too much for that.
 */
#define MAX_LABELLED 8192 /* files and streams of one container; a quarter of those of all */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64); /* cgroup of a container; of a process, where no policy has asked whose it is */
	__type(value, struct hw_guard_carried);
} guard_carried SEC(".maps");

__noinline int container_carries(u32 labels, u32 how)
{
	struct hw_guard_carried *c, new = {};
	u64 container = container_here();

	if (!container)
		container = bpf_get_current_cgroup_id();
	c = bpf_map_lookup_elem(&guard_carried, &container);
	if (!c) {
		bpf_map_update_elem(&guard_carried, &container, &new, BPF_NOEXIST);
		c = bpf_map_lookup_elem(&guard_carried, &container);
	}
	if (!c)
		return 0;
	if (labels & ~c->some)
		__sync_fetch_and_or(&c->some, labels);
	if (how == CARRIED_BY_SOME || (how == CARRIED_BY_MANY && __sync_fetch_and_add(&c->made, 1) < MAX_LABELLED))
		return 0;
	if (labels & ~c->all) {
		__sync_fetch_and_or(&c->all, labels);
		__sync_fetch_and_or(&settings.labels, HW_SPREAD);
	}
	return 0;
}

HOT u32 carried_by_all(u64 container)
{
	struct hw_guard_carried *c;

	if (!(settings.labels & HW_SPREAD))
		return 0;
	c = bpf_map_lookup_elem(&guard_carried, &container);
	return c ? c->all : 0;
}

HOT u32 carried_by_some(u64 container)
{
	struct hw_guard_carried *c = bpf_map_lookup_elem(&guard_carried, &container);

	return c ? c->some : 0;
}

/* ---- what is said ------------------------------------------------------------------------- */

struct guard {
	struct hw_guard_key key;
	u32 holds; /* enum hw_holds, orphaned above now */
	u32 without; /* of them, what does not count */
	u32 counted; /* the row that counts what is allowed */
	u32 asked; /* who opens or runs it is held elsewhere; OF_PROGRAM */
};

/* Calls to which numbers of tools were given. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* span */
	__type(value, u32);
} guard_tools SEC(".maps");

HOT u32 tool_of(u64 span)
{
	u32 *tool = span ? bpf_map_lookup_elem(&guard_tools, &span) : NULL;

	return tool ? *tool : 0;
}

#define EVERY(holds) ((holds) | (holds) << 16)

/* One row more; NULL: there is no answer. */
HOT struct hw_guard_value *guard_look(struct guard *g, u32 row)
{
	struct hw_guard_key key = g->key; /* a map's key may not be memory of the caller's before 6.3 */
	struct hw_guard_value *v;

	key.row = row;
	v = bpf_map_lookup_elem(&guard_answers, &key);
	if (v)
		g->holds |= (v->now | (u32)v->orphaned << 16) & ~g->without;
	return v;
}

/* Once for each question, in a row that says what was asked about. */
HOT bool is_counted(const struct guard *g, u32 row)
{
	switch (g->key.action) {
	case HW_A_CONNECT:
	case HW_A_LISTEN:
		return true;
	case HW_A_USE_SECRET:
		return row & HW_ROW_SECRET && !g->counted;
	}
	return row == HW_ROW_ANY;
}

/* The same, and what is allowed is counted; false: there is no answer. */
HOT bool guard_row(struct guard *g, u32 row)
{
	struct hw_guard_value *v = guard_look(g, row);

	if (!v)
		return false;
	if (is_counted(g, row)) {
		__sync_fetch_and_add(&v->allowed, 1);
		g->counted = row;
	}
	return true;
}

HOT bool stops(u32 holds)
{
	return holds & (HW_G_BLOCK | HW_G_ASKED) || (holds & (HW_G_LISTED | HW_G_PERMIT)) == HW_G_LISTED;
}

HOT bool would_stop(u32 holds)
{
	return holds & HW_G_WOULD_BLOCK ||
	       (holds & (HW_G_WOULD_LIST | HW_G_WOULD_PERMIT)) == HW_G_WOULD_LIST;
}

enum { PASSES, TOLD, STOPPED };

HOT bool agent_lives(void)
{
	return bpf_ktime_get_boot_ns() >> 30 <= settings.policy_alive;
}

/* Its pid may be another's once it is gone. */
HOT bool is_living_agent(void)
{
	return is_own() && agent_lives();
}

/* Not allowed, after all: rare, so it is looked up once more. */
__noinline int guard_uncount(const struct guard *g)
{
	struct hw_guard_value *v;
	struct hw_guard_key key;

	if (!g)
		return 0;
	key = g->key;
	key.row = g->counted;
	v = bpf_map_lookup_elem(&guard_answers, &key);
	if (v && (key.row || key.action != HW_A_USE_SECRET)) /* which counts no row for what it cannot tell */
		__sync_fetch_and_sub(&v->allowed, 1);
	return 0;
}

/* Once the agent is gone, only what was to outlive it stops anything; who was asked is so no more. */
HOT int guard_says(const struct guard *g)
{
	u32 now = g->holds & 0xffff, orphaned = g->holds >> 16;

	if (stops(now) || stops(orphaned)) {
		if (stops(agent_lives() ? now : orphaned)) {
			guard_uncount(g);
			return STOPPED;
		}
		if (stops(now))
			return PASSES;
	}
	return would_stop(now) ? TOLD : PASSES;
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
	remember_container();
	guard_fill(g, generation, scope, action,
		   settings.labels & HW_CARRIED ? own_labels() | carried_by_all(container_here()) : 0);
	if (settings.policy_tools)
		g->key.tool = tool_of(current_span());
	return true;
}

/* Where a stop is told of: who has left its container is the container's all the same. */
__noinline u64 told_cgroup(u64 cgroup)
{
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup);
	u64 left = known && known->container ? 0 : container_left();

	return left ? left : cgroup;
}

/* In the scratch: GUARD_PATH is done with by then. num: of HW_POLICY, see sensor/events.py. */
__noinline int guard_tell(u32 action_done, u32 obj, u64 num, u16 marks)
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
	e->cgroup = told_cgroup(cgroup);
	e->flags = action_done;
	e->ret = action_done >> 16 == HW_DONE_TOLD ? 0 : -EPERM;
	e->num = num;
	e->num2 = settings.policy;
	e->marks = marks;
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
#define UNIX_NAME 108 /* bytes of a Unix socket's name, with a NUL */

HOT bool is_pseudo(struct dentry *dentry)
{
	u64 magic = BPF_CORE_READ(dentry, d_sb, s_magic);

	return magic == PIPEFS_MAGIC || magic == TMPFS_MAGIC || magic == PROC_MAGIC;
}

/* Rows of the path that is in s->data[start .. start + len), for a first or a second name. */
HOT void guard_match(struct scratch *s, u32 start, u32 len, bool second)
{
	struct guard_path *p;
	struct path_match *m;
	u32 i;

	if (start > PATH_END)
		return;
	m = (void *)&s->data[PATH_MATCH];
	p = (void *)&s->data[GUARD_PATH];
	path_match(s, start, len, 1 + (p->generation & 1));
	for (i = 0; i < HW_GUARD_ROWS / 2; i++) {
		if (second)
			p->rows[HW_GUARD_ROWS / 2 + i] = m->found[i];
		else
			p->rows[i] = m->found[i];
	}
	if (!settings.policy_secrets[p->generation & 1])
		return;
	path_match(s, start, len, 0);
	if (m->rank < 256)
		p->secrets[second] = m->rank;
}

/* Its name where it was reached. 0: it has none. */
__noinline int guard_walk(struct scratch *s, u64 mnt, u64 dentry)
{
	struct dentry *d = (void *)dentry;
	u32 want = 0, start;

	if (!s)
		return 0;
	start = path_build(s, (void *)mnt, d, &want);
	if (start > PATH_END)
		return 0;
	/* What is too long has lost its beginning; what is not below a mount has no path. */
	if (want > PATH_END - start || (s->data[start & (2 * ARGV_ROOM - 1)] != '/' && !is_pseudo(d)))
		((struct guard_path *)&s->data[GUARD_PATH])->unknown = 1;
	guard_match(s, start, PATH_END - start, false);
	return 1;
}

/*
 * The container's own files have a second name: where they lie in their file system, wherever that is
 * mounted once more, or somebody's root directory is now. It can only forbid.
 */
__noinline int guard_walk_within(struct scratch *s, u64 dentry)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct dentry *d = (void *)dentry, *root = BPF_CORE_READ(task, fs, root.dentry);
	struct path_walk w = {};

	if (!s)
		return 0;
	if (BPF_CORE_READ(d, d_sb) != BPF_CORE_READ(root, d_sb) &&
	    BPF_CORE_READ(d, d_sb, s_magic) != OVERLAYFS_MAGIC) /* its root may be elsewhere by now */
		return 0;
	w.data = s->data;
	w.dentry = d;
	w.pos = PATH_END;
	w.within = BPF_CORE_READ(d, d_sb, s_root);
	bpf_loop(2048 + 64, path_step, &w, 0);
	if (w.pos < PATH_END)
		guard_match(s, w.pos, PATH_END - w.pos, true);
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
	if (guard_walk(s, mnt, dentry))
		guard_walk_within(s, dentry);
	guard_keep(s, mnt, dentry);
	return 0;
}

/*
 * A Unix socket's name that is no path, as `//name`, which no path is. What follows a NUL in it does
 * not count: some fill the rest of their address with them.
 */
__noinline int guard_abstract(struct scratch *s, u64 address, u32 generation)
{
	struct guard_path *new;
	long n;

	if (!s)
		return 0;
	new = (void *)&s->data[GUARD_PATH];
	__builtin_memset(new, 0, sizeof(*new));
	new->generation = generation;
	s->data[PATH_END] = s->data[PATH_END + 1] = '/';
	n = bpf_probe_read_kernel_str(&s->data[PATH_END + 2], UNIX_NAME,
				      (void *)address + bpf_core_field_offset(struct unix_address, name) + 3);
	if (n > 0 && n <= UNIX_NAME)
		guard_match(s, PATH_END, n + 1, false);
	else
		new->unknown = 1;
	return 0;
}

/* Of a secret nothing counts but the places. */
__noinline int guard_as_secret(struct scratch *s)
{
	struct guard_path *p;
	u32 i;

	if (!s)
		return 0;
	p = (void *)&s->data[GUARD_PATH];
	__builtin_memset(p->rows, 0, sizeof(p->rows));
	for (i = 0; i < 2; i++)
		if (p->secrets[i])
			p->rows[i * HW_GUARD_ROWS / 2] = HW_ROW_SECRET | p->secrets[i];
	return 0;
}

#define OF_PROGRAM 2 /* it is mapped by a program, of which that was asked */

/* Whether somebody is to be asked about whatever is run. */
__noinline u32 asks_of_all(const struct guard *g)
{
	struct hw_guard_value *v;
	struct hw_guard_key key;

	if (!g)
		return 0;
	key = g->key;
	key.row = HW_ROW_ANY;
	key.facts &= ~HW_FACT_UPPER; /* which is said of what is mapped */
	v = bpf_map_lookup_elem(&guard_answers, &key);
	return v ? v->now & HW_G_ASKED : 0;
}

#define SECOND_NAME (HW_G_PERMIT | HW_G_LISTED | HW_G_WOULD_PERMIT | HW_G_WOULD_LIST)

/* Answers for a path, or without mnt for a struct unix_address. Returns what guard_says. */
__noinline int guard_path(struct guard *g, u64 mnt, u64 dentry)
{
	struct guard_path *p;
	struct scratch *s;
	u32 i;

	if (!g || !guard_row(g, HW_ROW_ANY))
		return PASSES; /* no policy speaks of such a thing */
	if (g->asked == OF_PROGRAM) { /* but not of what it maps by its name, as ld.so does */
		if (asks_of_all(g))
			g->holds &= ~HW_G_ASKED;
		g->asked = 0;
	}
	s = scratch_get(HW_POLICY, bpf_get_current_cgroup_id());
	if (!s) {
		guard_row(g, HW_ROW_UNKNOWN);
		return guard_says(g);
	}
	if (mnt)
		guard_known(s, mnt, dentry, g->key.generation);
	else
		guard_abstract(s, dentry, g->key.generation);
	if (g->key.action == HW_A_USE_SECRET)
		guard_as_secret(s);
	p = (void *)&s->data[GUARD_PATH];
	if (p->unknown)
		guard_row(g, HW_ROW_UNKNOWN);
	for (i = 0; i < HW_GUARD_ROWS; i++) {
		if (i == HW_GUARD_ROWS / 2) { /* what a second name permits is not permitted by it */
			g->without |= EVERY(SECOND_NAME);
			/* Elsewhere the first is known, or none. */
			if (g->asked && !p->unknown && g->holds & HW_G_ASKED) {
				g->holds &= ~HW_G_ASKED;
				g->without |= HW_G_ASKED;
			}
		}
		if (p->rows[i] && !guard_row(g, p->rows[i]))
			guard_row(g, HW_ROW_UNKNOWN);
	}
	scratch_put(s);
	return guard_says(g);
}

HOT void guard_facts(struct guard *g, struct inode *inode)
{
	if (!(settings.policy_facts[g->key.generation & 1] & HW_FACT_UPPER))
		return;
	/* What is in memory alone, a memfd too, came with no image. */
	if (on_upper_layer(inode) || BPF_CORE_READ(inode, i_sb, s_magic) == TMPFS_MAGIC)
		g->key.facts |= HW_FACT_UPPER;
}

/* ---- what is held elsewhere ----------------------------------------------------------------- */

#define FS_OPEN_PERM 0x10000
#define FS_OPEN_EXEC_PERM 0x40000
#define FS_ISDIR 0x40000000

/* Whether fanotify tells of it: not of each mount, file system or folder, nor in each moment. */
HOT bool is_told_of(u64 mnt, u64 dentry, u32 wanted)
{
	struct mount *m = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	struct super_block *sb = BPF_CORE_READ((struct dentry *)dentry, d_sb);
	u32 of_mount = 0, of_all = 0;

	if ((BPF_CORE_READ((struct dentry *)dentry, d_inode, i_mode) & S_IFMT) == S_IFDIR)
		wanted |= FS_ISDIR;
	if (bpf_core_field_exists(m->mnt_fsnotify_mask))
		bpf_core_read(&of_mount, 4, &m->mnt_fsnotify_mask);
	if (bpf_core_field_exists(sb->s_fsnotify_mask))
		bpf_core_read(&of_all, 4, &sb->s_fsnotify_mask);
	return (of_mount & wanted) == wanted || (of_all & wanted) == wanted;
}

/* The kernel itself maps what it opened to be run: the program, and its loader. */
HOT bool is_executing(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* Whether fanotify holds who opens (else runs) something, as this generation has it. */
HOT bool fanotify_holds(u32 generation, bool opens)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup);
	u64 container = known ? known->container : 0;
	struct hw_guard_asked *as = bpf_map_lookup_elem(&guard_asked, &container);
	u32 number = settings.policy_asked[generation & 1];

	return as && number && settings.policy_keepers[0] && (opens ? as->opens : as->execs) == number;
}

/*
 * Whether whoever opens a file, or runs it, is held through fanotify, and as much is known there as
 * here: not who has left the container's cgroup, nor what all of it is taken to carry, nor that what
 * is in memory came with no image. As guard.asked.
 */
__noinline u32 is_asked(const struct guard *g, u64 mnt, u64 dentry, u64 num)
{
	u32 facts, action, wanted = FS_OPEN_PERM;

	if (!g)
		return 0;
	facts = g->key.facts;
	action = g->key.action;
	if (action == HW_A_EXEC)
		wanted = FS_OPEN_EXEC_PERM;
	else if (action == HW_A_PRIVILEGE || num != HW_OPENED)
		return 0;
	if (!fanotify_holds(g->key.generation, action != HW_A_EXEC) || facts & ~HW_FACT_UPPER & ~own_labels())
		return 0;
	if (action == HW_A_EXEC && num == HW_MAPPED && !is_executing())
		return OF_PROGRAM;
	if (!is_told_of(mnt, dentry, wanted))
		return 0;
	return !(facts & HW_FACT_UPPER) || BPF_CORE_READ((struct dentry *)dentry, d_sb, s_magic) != TMPFS_MAGIC;
}

/* One question about a path, with what is told. 0, or -EPERM. */
__noinline int guard_asks(u32 action_done, u64 mnt, u64 dentry, u64 inode, u64 num)
{
	u16 action = action_done;
	struct guard g;
	int says;

	if (!guard_begin(&g, action))
		return 0;
	if (inode && action != HW_A_USE_SECRET) /* of which nothing but its kind is told */
		guard_facts(&g, (void *)inode);
	if (action == HW_A_PRIVILEGE)
		g.key.port = num;
	if (action == HW_A_EXEC && num == HW_MAPPED)
		g.without = EVERY(HW_G_LISTED | HW_G_WOULD_LIST);
	if (settings.policy_asked[g.key.generation & 1])
		g.asked = is_asked(&g, mnt, dentry, num);
	says = guard_path(&g, mnt, dentry);
	if (says == PASSES)
		return 0;
	if (says == TOLD)
		action_done = action;
	guard_tell(action_done, path_id(mnt, dentry, 0, HW_POLICY, bpf_get_current_cgroup_id()), num,
		   g.key.facts & HW_FACT_UPPER ? HW_M_UPPER : 0);
	return says == STOPPED ? -EPERM : 0;
}

HOT int guard_file(u32 action, struct file *file, u64 num)
{
	return guard_asks(action | HW_DONE_DENIED << 16, (u64)BPF_CORE_READ(file, f_path.mnt),
			  (u64)BPF_CORE_READ(file, f_path.dentry), (u64)BPF_CORE_READ(file, f_inode), num);
}

/* A Unix socket, by what it is bound to; one that has no name was handed over. 0, or -EPERM. */
__noinline int guard_unix(u64 other)
{
	struct unix_sock *u = (void *)other;
	u64 dentry = (u64)BPF_CORE_READ(u, path.dentry), address = (u64)BPF_CORE_READ(u, addr);
	u64 mnt = dentry ? (u64)BPF_CORE_READ(u, path.mnt) : 0;
	u64 cgroup = bpf_get_current_cgroup_id();
	struct guard g;
	int says;

	if ((!dentry && !address) || !guard_begin(&g, HW_A_SOCKET))
		return 0;
	says = guard_path(&g, mnt, dentry ? dentry : address);
	if (says == PASSES)
		return 0;
	guard_tell(HW_A_CONNECT | (says == STOPPED ? HW_DONE_DENIED : HW_DONE_TOLD) << 16,
		   dentry ? path_id(mnt, dentry, 0, HW_POLICY, cgroup) : sock_end(other, 0, HW_POLICY, cgroup), 0, 0);
	return says == STOPPED ? -EPERM : 0;
}

/* ---- network ------------------------------------------------------------------------------ */

/* Aligned, as the address is read by words on the stack. */
struct guard_end { u8 addr[16]; u32 port, pad; } __attribute__((aligned(8)));

HOT void end_v4(struct guard_end *end, u32 ip, u32 port)
{
	__builtin_memset(end, 0, sizeof(*end));
	end->addr[10] = end->addr[11] = 0xff;
	__builtin_memcpy(end->addr + 12, &ip, 4);
	end->port = port;
}

/* HW_FACT_NEW where the baseline of a scope's image does not have an end; without one, not all. */
__noinline u32 guard_new(u32 generation, u32 scope, const struct guard_end *end)
{
	struct hw_guard_scope of = { .generation = generation, .scope = scope };
	struct hw_guard_name name = { .generation = generation, .scope = scope };
	u32 *profile = bpf_map_lookup_elem(&guard_profiles, &of);
	struct hw_guard_seen key = {};

	if (!profile || !*profile)
		return 0;
	key.profile = *profile;
	if (bpf_map_lookup_elem(&guard_seen, &key))
		return 0;
	if (!end)
		return HW_FACT_NEW;
	key.port = end->port;
	__builtin_memcpy(name.addr, end->addr, 16);
	if (!bpf_map_lookup_elem(&guard_names, &name) && bpf_map_lookup_elem(&guard_seen, &key))
		return 0;
	__builtin_memcpy(key.addr, end->addr, 16);
	return bpf_map_lookup_elem(&guard_seen, &key) ? 0 : HW_FACT_NEW;
}

HOT void guard_baseline(struct guard *g, const struct guard_end *end)
{
	u32 generation = g->key.generation;

	if (g->key.action == HW_A_CONNECT && settings.policy_new[generation & 1])
		g->key.facts |= guard_new(generation, g->key.scope, end);
}

/* For what cannot be told: as the policies fail. */
HOT int guard_unknown(struct guard *g)
{
	g->key.name = g->key.port = 0;
	guard_row(g, HW_ROW_UNKNOWN);
	return guard_says(g);
}

/* The row of an address; its port goes into the key. */
HOT u32 guard_place(struct guard *g, const struct guard_end *end)
{
	struct hw_guard_port port = { .generation = g->key.generation, .port = end->port };
	struct hw_guard_net net = { .prefix = 160 };
	u16 *named = bpf_map_lookup_elem(&guard_ports, &port);
	u32 *found;

	g->key.port = named ? *named : 0;
	*(u32 *)net.generation = bpf_htonl(g->key.generation);
	__builtin_memcpy(net.addr, end->addr, 16);
	found = bpf_map_lookup_elem(&guard_nets, &net);
	return found ? *found : HW_ROW_ANY;
}

/* Answers for one end of a network; g->key holds who asks. */
__noinline int guard_net(struct guard *g, const struct guard_end *end)
{
	struct hw_guard_name name = {};
	u32 row, *found;

	if (!g || !end)
		return PASSES;
	row = guard_place(g, end);
	name.generation = g->key.generation;
	name.scope = g->key.scope;
	__builtin_memcpy(name.addr, end->addr, 16);
	/* Of what listens no name is asked for. */
	found = g->key.action == HW_A_CONNECT ? bpf_map_lookup_elem(&guard_names, &name) : 0;
	g->key.name = found ? *found : 0;
	guard_baseline(g, end);
	return guard_row(g, row) ? guard_says(g) : guard_unknown(g);
}

/* A socket whose packets the hooks here do not see, or cannot read. True: it may not be made. */
__noinline int guard_socket(u32 family, u32 type, u32 protocol)
{
	struct guard g;
	int says;

	if (!guard_begin(&g, HW_A_CONNECT))
		return false;
	guard_baseline(&g, NULL);
	says = guard_unknown(&g);
	if (says != PASSES)
		guard_tell(HW_A_CONNECT | (says == STOPPED ? HW_DONE_DENIED : HW_DONE_TOLD) << 16, 0,
			   (u64)family << 16 | (type & 0xff) << 8 | (protocol & 0xff), 0);
	return says == STOPPED;
}

/* ---- names that are not known yet --------------------------------------------------------- */

/*
 * A program asks for a name and connects at once, before user space has read the answer. So for a
 * moment after an answer a connection that would be stopped is let go, and its packets are held
 * back: TCP sends them again after a second, and by then it is known what the address is called.
 */
#define ANSWER_NS 1000000000ULL
#define HELD_SECONDS 130 /* as long as packets of a connection that is not made are sent again */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* cgroup */
	__type(value, u64); /* CLOCK_BOOTTIME ns of an answer that user space has not read */
} guard_answered SEC(".maps");

struct guard_held_key { struct guard_end end; u32 scope, pad; };
struct guard_held { struct owner by; u64 since; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct guard_held_key);
	__type(value, struct guard_held);
} guard_holds SEC(".maps");

/* Threads of which one was held in the call that they are in. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* pid_tgid */
	__type(value, u8);
} guard_held_by SEC(".maps");

/* At the end of the call. HW_M_HELD, or 0. */
HOT u16 held_mark(void)
{
	u64 key = bpf_get_current_pid_tgid();

	return settings.policy_held && !bpf_map_delete_elem(&guard_held_by, &key) ? HW_M_HELD : 0;
}

HOT void guard_answer(u64 cgroup)
{
	u64 now = bpf_ktime_get_boot_ns();

	bpf_map_update_elem(&guard_answered, &cgroup, &now, BPF_ANY);
}

/* Whether this connection, which would be stopped, is held instead. */
__noinline int guard_hold(const struct guard_end *end, u32 scope, u32 labels)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 cgroup = bpf_get_current_cgroup_id(), now = bpf_ktime_get_boot_ns();
	u64 *answered = bpf_map_lookup_elem(&guard_answered, &cgroup), thread = bpf_get_current_pid_tgid();
	struct guard_held_key key = { .scope = scope };
	struct guard_held held = { .since = now };
	u8 one = 1;

	if (!end || !answered || *answered + ANSWER_NS < now)
		return false;
	key.end = *end;
	held.by.proc = key_of(task);
	held.by.cgroup = cgroup;
	held.by.exec_id = BPF_CORE_READ(task, self_exec_id);
	held.by.span = current_span();
	held.by.tid = (u32)thread;
	held.by.labels = labels;
	settings.policy_held = (now >> 30) + HELD_SECONDS;
	bpf_map_update_elem(&guard_held_by, &thread, &one, BPF_ANY);
	return bpf_map_update_elem(&guard_holds, &key, &held, BPF_ANY) == 0;
}

/* ---- open connections --------------------------------------------------------------------- */

/* 0: of nobody that policies speak of. */
HOT u64 container_of_packet(struct __sk_buff *skb, u32 generation)
{
	u64 cgroup = bpf_skb_cgroup_id(skb), above;
	struct guard_leaf *known = bpf_map_lookup_elem(&guard_leaves, &cgroup);
	int level;

	if (known && known->generation == generation && known->changes == settings.policy_changes)
		return known->container;
	for (level = 1; level <= GUARD_DEPTH; level++) {
		above = bpf_skb_ancestor_cgroup_id(skb, level);
		if (!above)
			return 0;
		if (scope_in(above, generation))
			return above;
	}
	return 0;
}

/*
 * Whoever may take any address for its own (CAP_NET_RAW: IP_TRANSPARENT) can answer itself in a
 * resolver's name. What a container has sent as a name server it is not believed to have been told.
 */
struct guard_posed { u64 container; u8 addr[16]; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* an entry is made anew by each such packet, before it arrives */
	__uint(max_entries, 4096);
	__type(key, struct guard_posed);
	__type(value, u8);
} guard_posed SEC(".maps");

/* A packet from port 53. True: it comes from the container itself. */
HOT bool is_posed(struct __sk_buff *skb, const u8 *from, bool outgoing)
{
	u32 generation = settings.policy;
	struct guard_posed key = {};
	u8 one = 1;

	if (!generation)
		return false;
	key.container = container_of_packet(skb, generation);
	if (!key.container)
		return false;
	__builtin_memcpy(key.addr, from, 16);
	if (outgoing)
		bpf_map_update_elem(&guard_posed, &key, &one, BPF_ANY);
	return outgoing || bpf_map_lookup_elem(&guard_posed, &key);
}

/*
 * Whoever opened it may have read something since: then it would not be let out any more, and nor is
 * what it sends. True: to be dropped.
 */
__noinline int guard_packet(const struct guard_end *end, u32 scope, u32 labels, u64 span)
{
	struct guard g;

	if (!end)
		return false;
	guard_fill(&g, settings.policy, scope, HW_A_CONNECT, labels);
	if (settings.policy_tools)
		g.key.tool = tool_of(span);
	return guard_net(&g, end) == STOPPED;
}

#endif
