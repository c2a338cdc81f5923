/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where did information come from? A process carries the labels of what it has read and hands them
 * to its children and to what it writes; files, pipes and sockets carry those of who wrote to them.
 * What a path says of its content is known here before the file's first open is told.
 *
 * Labels only grow, as nobody can unread. What outlives its label is nothing: a process takes its
 * entry along, a file's is of its inode and generation. Plain maps, for the reason in span.h.
 */
#ifndef HULLWATCH_LABEL_H
#define HULLWATCH_LABEL_H

#include "syscall.h"

/* As many as a host can have, or else whoever forks enough sheds a label. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32); /* tgid */
	__type(value, struct hw_labelled);
} labelled SEC(".maps");

/* Not an LRU: who makes many files must not make the label of one be forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct hw_inode_key);
	__type(value, struct hw_inode_labels);
} labelled_files SEC(".maps");

/* What ends unseen: pipes, sockets, files without a name. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct hw_inode_key);
	__type(value, struct hw_inode_labels);
} labelled_streams SEC(".maps");

/* ---- paths -------------------------------------------------------------------------------- */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32); /* dictionary id of a path that has labels */
	__type(value, u32);
} labelled_paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HW_TABLES);
	__type(key, u32);
	__type(value, struct hw_path_table);
} path_table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__type(key, u32);
	__type(value, struct hw_path_state);
} path_states SEC(".maps");

/* The walk's numbers are in the scratch, before any path: kept on the stack, the verifier would go
 * through all that they may be, in every program that has a path. */
#define PATH_MATCH 64
struct path_match {
	u32 start, len, state, backwards, labels, ranked, rank, pad;
	u32 found[HW_PATH_AUTOMATA]; /* labels of where each automaton ended */
};
struct path_read { struct scratch *s; struct hw_path_table *table; };

static long path_match_step(u32 i, struct path_read *r)
{
	struct path_match *m = (void *)&r->s->data[PATH_MATCH];
	u32 at = m->backwards ? m->start + m->len - 1 - i : m->start + i, state = m->state, class;
	struct hw_path_state *from = bpf_map_lookup_elem(&path_states, &state);

	if (!from)
		return 1;
	FRESH(at);
	class = r->table->class_of[r->s->data[at & (2 * ARGV_ROOM - 1)]];
	FRESH(class);
	if (class >= HW_PATH_CLASSES)
		return 1;
	m->state = from->next[class];
	return m->state == 0;
}

static long path_automaton(u32 i, struct path_read *r)
{
	struct path_match *m = (void *)&r->s->data[PATH_MATCH];
	struct hw_path_state *end;
	u32 state;

	if (i >= HW_PATH_AUTOMATA || i >= r->table->count)
		return 1;
	m->state = r->table->starts[i];
	m->backwards = r->table->reversed >> i & 1;
	bpf_loop(m->len, path_match_step, r, 0);
	state = m->state;
	end = bpf_map_lookup_elem(&path_states, &state);
	if (!end)
		return 0;
	m->found[i] = end->labels;
	if (!end->rank)
		m->labels |= end->labels;
	if (end->rank && end->rank < m->rank) {
		m->rank = end->rank;
		m->ranked = end->labels;
	}
	return 0;
}

/* Run a table over a path; what it finds is in the scratch. */
HOT void path_match(struct scratch *s, u32 start, u32 len, u32 table)
{
	struct path_read r = { .s = s };
	struct path_match *m;

	m = (void *)&s->data[PATH_MATCH];
	__builtin_memset(m, 0, sizeof(*m));
	m->start = start;
	m->len = len;
	m->rank = ~0u;
	r.table = bpf_map_lookup_elem(&path_table, &table);
	if (r.table)
		bpf_loop(HW_PATH_AUTOMATA, path_automaton, &r, 0);
}

/* Run once for a new path. */
__noinline int path_labels(struct scratch *s, u32 start, u32 len, u32 id)
{
	struct path_match *m;
	u32 labels;

	if (!s)
		return 0;
	path_match(s, start, len, 0);
	m = (void *)&s->data[PATH_MATCH];
	labels = m->labels | m->ranked;
	if (labels) {
		bpf_map_update_elem(&labelled_paths, &id, &labels, BPF_ANY);
		__sync_fetch_and_or(&settings.labels, HW_GIVEN);
	}
	return 0;
}

/* ---- processes ---------------------------------------------------------------------------- */

__noinline u32 labels_of(u64 proc)
{
	u32 tgid = proc & 0x3fffff;
	struct hw_labelled *l = bpf_map_lookup_elem(&labelled, &tgid);

	return l && (!l->proc || l->proc == proc) ? l->labels : 0;
}

HOT u32 own_labels(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	if (!bpf_map_lookup_elem(&labelled, &tgid))
		return 0;
	return labels_of(key_of((void *)bpf_get_current_task()));
}

/*
 * Those that keep containers (runtimes, log collectors) see what all of them put out, and write what
 * they begin with: were they labelled of it, and containers of them, everything would be. So what
 * is given on one side of the boundary is taken on that side only.
 */
HOT bool is_outside(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, thread_pid, level) <= settings.host_level;
}

HOT bool outside(void)
{
	return is_outside((void *)bpf_get_current_task());
}

__noinline int put_process(u64 proc, u32 tgid, u32 labels, u64 cgroup)
{
	struct hw_labelled *l = bpf_map_lookup_elem(&labelled, &tgid);
	struct hw_labelled new = { .proc = proc, .labels = labels };

	if (l && (!l->proc || l->proc == proc)) {
		__sync_fetch_and_or(&l->labels, labels);
		return 0;
	}
	new.since = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&labelled, &tgid, &new, BPF_ANY)) {
		lost(HW_L_LABEL, HW_LABEL, cgroup);
		return -ENOSPC;
	}
	__sync_fetch_and_or(&settings.labels, HW_CARRIED);
	return 0;
}

/* kind: address family << 16 | enum hw_label_way. In the scratch, for it stands on deep stacks. */
__noinline int tell_label(u32 labels, u32 obj, u64 ino, u32 kind)
{
	struct scratch *s = scratch_get(HW_LABEL, bpf_get_current_cgroup_id());
	struct task_struct *task = (void *)bpf_get_current_task();
	struct hw_event *e;

	if (!s)
		return 0;
	e = (void *)s->data;
	__builtin_memset(e, 0, sizeof(*e));
	e->ts = bpf_ktime_get_boot_ns();
	e->proc = key_of(task);
	e->cgroup = bpf_get_current_cgroup_id();
	e->span = current_span();
	e->tid = (u32)bpf_get_current_pid_tgid();
	e->labels = labels_of(e->proc);
	e->cls = HW_LABEL;
	e->num = labels;
	e->num2 = ino;
	e->flags = kind;
	if (obj != SHED)
		e->obj = obj;
	if (!e->obj)
		e->marks = HW_M_NOT_REGULAR;
	send_first(e);
	scratch_put(s);
	return 0;
}

/* Whatever connections the process in hand has, it may send this over: label.bpf.c. */
__noinline int hold_connections(u32 labels);
__noinline int hold_received(u64 file_address);

/* What is known of a container as a whole, where more than that cannot be kept: guard.h. */
enum { CARRIED_BY_SOME, CARRIED_BY_MANY, CARRIED_UNSEEN };
__noinline int container_carries(u32 labels, u32 how);

/* The process in hand gets these; returns those that it had not. */
__noinline u32 gained(u32 labels)
{
	u64 proc = key_of((void *)bpf_get_current_task());

	labels &= ~labels_of(proc);
	if (!labels || (outside() && !settings.label_host))
		return 0;
	if (put_process(proc, proc & 0x3fffff, labels, bpf_get_current_cgroup_id())) {
		container_carries(labels, CARRIED_UNSEEN);
		return 0;
	}
	container_carries(labels, CARRIED_BY_SOME);
	hold_connections(labels);
	return labels;
}

/* A child of another pid namespace than those that keep containers begins one: it is nobody's. */
__noinline int label_inherit(u64 parent_address, u64 child_address)
{
	struct task_struct *parent = (void *)parent_address, *child = (void *)child_address;
	u32 tgid = BPF_CORE_READ(child, tgid), labels = labels_of(key_of(parent));

	bpf_map_delete_elem(&labelled, &tgid); /* of whoever had this number before */
	if (labels && !(is_outside(parent) && !is_outside(child)) &&
	    put_process(key_of(child), tgid, labels, cgroup_of(child)))
		container_carries(labels, CARRIED_UNSEEN);
	return 0;
}

HOT void label_forget(u32 tgid)
{
	bpf_map_delete_elem(&labelled, &tgid);
}

/* User space adds or drops labels of a process. 0, or -ENOSPC. */
SEC("syscall")
int label_change(struct hw_label_change *change)
{
	u32 tgid = change->tgid, add = change->add, drop = change->drop;
	struct hw_labelled *l;

	if (add && put_process(change->proc, tgid, add, 0))
		return -ENOSPC;
	l = drop ? bpf_map_lookup_elem(&labelled, &tgid) : NULL;
	if (l) {
		__sync_fetch_and_and(&l->labels, ~drop);
		if (!l->labels)
			bpf_map_delete_elem(&labelled, &tgid);
	}
	return 0;
}

/* ---- files and streams -------------------------------------------------------------------- */

HOT bool on_overlay(struct inode *inode)
{
	return BPF_CORE_READ(inode, i_sb, s_magic) == OVERLAYFS_MAGIC;
}

/*
 * On overlayfs the VFS inode is embedded in struct ovl_inode, and the dentry of the writable layer
 * follows it (fs/overlayfs/ovl_entry.h); overlayfs is often a module, so its BTF is not at hand.
 */
HOT bool on_upper_layer(struct inode *inode)
{
	u64 upper = 0;

	if (!on_overlay(inode))
		return false;
	bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
	return upper != 0;
}

/* On overlayfs the inode of the writable layer: its number is not given to another file unnoticed. */
HOT void inode_key(struct hw_inode_key *key, struct inode *inode)
{
	struct dentry *upper = NULL;
	struct inode *real;

	if (BPF_CORE_READ(inode, i_sb, s_magic) == OVERLAYFS_MAGIC) {
		bpf_probe_read_kernel(&upper, sizeof(upper), (void *)inode + bpf_core_type_size(struct inode));
		real = upper ? BPF_CORE_READ(upper, d_inode) : NULL;
		if (real)
			inode = real;
	}
	key->ino = BPF_CORE_READ(inode, i_ino);
	key->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key->generation = BPF_CORE_READ(inode, i_generation);
}

/* Files that keep what is written to them, fifos and pipes; no devices, none of /proc. */
HOT bool carries(struct inode *inode)
{
	u32 type = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	u64 magic = BPF_CORE_READ(inode, i_sb, s_magic);

	return type == S_IFIFO ||
	       (type == S_IFREG && magic != PROC_MAGIC && magic != SYSFS_MAGIC && magic != CGROUP2_MAGIC);
}

HOT bool is_stream(struct inode *inode)
{
	return (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG || !BPF_CORE_READ(inode, i_nlink);
}

HOT struct hw_inode_labels *labels_at(const struct hw_inode_key *key, bool stream)
{
	return stream ? bpf_map_lookup_elem(&labelled_streams, key) : bpf_map_lookup_elem(&labelled_files, key);
}

/* Labels for an inode, of the process in hand or (inherent) its own; returns those that are new. */
__noinline u32 put_inode(const struct hw_inode_key *of, u32 stream, u32 labels, u32 inherent)
{
	struct hw_inode_labels new = {}, *l;
	struct hw_inode_key key;
	u32 fresh;

	if (!of)
		return 0;
	key = *of; /* a map's key may not be memory of the caller's before 6.3 */
	if (inherent || outside())
		new.outside = labels;
	if (inherent || !outside())
		new.inside = labels;
	l = labels_at(&key, stream);
	if (l) {
		fresh = (new.outside & ~l->outside) | (new.inside & ~l->inside);
		if (fresh) {
			__sync_fetch_and_or(&l->outside, new.outside);
			__sync_fetch_and_or(&l->inside, new.inside);
		}
		return fresh;
	}
	new.since = bpf_ktime_get_boot_ns();
	if (stream ? bpf_map_update_elem(&labelled_streams, &key, &new, BPF_ANY)
		   : bpf_map_update_elem(&labelled_files, &key, &new, BPF_ANY)) {
		lost(HW_L_LABEL, HW_LABEL, bpf_get_current_cgroup_id());
		if (!inherent)
			container_carries(labels, CARRIED_UNSEEN);
		return 0;
	}
	__sync_fetch_and_or(&settings.labels, HW_CARRIED);
	if (!inherent)
		container_carries(labels, CARRIED_BY_MANY);
	return labels;
}

/* Its name, where it has one. */
HOT u32 name_of(struct file *file, u32 obj)
{
	if (obj && obj != SHED)
		return obj;
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) == PIPEFS_MAGIC)
		return 0;
	return path_of_file(file, 0, HW_LABEL, bpf_get_current_cgroup_id());
}

/* What the process in hand would take of an inode. */
HOT u32 untaken(const struct hw_inode_key *key, bool stream)
{
	struct hw_inode_labels *l = labels_at(key, stream);

	if (!l)
		return 0;
	return outside() ? l->outside : l->inside;
}

/* The process reads: what the file carries it carries, too. obj: its path, if known. */
__noinline int took(u64 file_address, u32 obj)
{
	struct file *file = (void *)file_address;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct hw_inode_key key;
	u32 labels;

	if (!carries(inode))
		return 0;
	inode_key(&key, inode);
	labels = untaken(&key, is_stream(inode));
	labels = labels ? gained(labels) : 0;
	if (labels)
		tell_label(labels, name_of(file, obj), key.ino, HW_LABEL_TOOK);
	return 0;
}

/* The process writes: what it carries the file carries, too. */
__noinline int gave(u64 file_address, u32 obj)
{
	struct file *file = (void *)file_address;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct hw_inode_key key;
	u32 labels = own_labels();

	if (!labels || !carries(inode))
		return 0;
	inode_key(&key, inode);
	labels = put_inode(&key, is_stream(inode), labels, false);
	if (labels)
		tell_label(labels, name_of(file, obj), key.ino, HW_LABEL_GAVE);
	return 0;
}

/*
 * A file is opened. To read it is to have read it; to write is to have written, since a mapping may
 * do so unseen. What its path says goes to the inode, so that a copy of the fd or another name says
 * it, too.
 */
__noinline int label_opened(u64 file_address)
{
	struct file *file = (void *)file_address;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	u32 obj, fresh, f_mode = BPF_CORE_READ(file, f_mode), *labels;
	struct hw_inode_key key;

	if ((outside() && !settings.label_host) || (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFDIR)
		return 0;
	obj = path_of_file(file, BULK_STRING, HW_LABEL, bpf_get_current_cgroup_id());
	labels = bpf_map_lookup_elem(&labelled_paths, &obj);
	if (labels) {
		inode_key(&key, inode);
		if (carries(inode))
			put_inode(&key, is_stream(inode), *labels, true);
		fresh = f_mode & FMODE_READ ? gained(*labels) : 0;
		if (fresh)
			tell_label(fresh, obj, key.ino, HW_LABEL_TOOK);
	}
	if (f_mode & FMODE_READ)
		took(file_address, obj);
	if (f_mode & FMODE_WRITE)
		gave(file_address, obj);
	return 0;
}

/* What is open already is read or written: label.bpf.c. */
__noinline int took_file(u64 file_address);
__noinline int took_fds(u64 file_address);
__noinline int gave_file(u64 file_address);
__noinline int label_met(u64 sock, u32 cls);

/* No functions, as eight calls deep is all that a program may be. */
HOT void took_fd(int fd)
{
	struct file *file = file_of(fd);

	if (file)
		took_file((u64)file);
}

HOT void gave_fd(int fd)
{
	struct file *file = own_labels() ? file_of(fd) : NULL;

	if (file)
		gave_file((u64)file);
}

#endif
