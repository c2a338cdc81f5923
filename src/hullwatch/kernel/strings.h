/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Interning: whole strings cross to user space once, events carry 32-bit ids. */
#ifndef HULLWATCH_STRINGS_H
#define HULLWATCH_STRINGS_H

#include "common.h"

/* SipHash-1-3 (Aumasson, Bernstein 2012). Its lanes are in the scratch, as stacks are deep here. */
struct hash_walk { struct scratch *s; u32 start; };

#define ROTATED(x, by) ((x) << (by) | (x) >> (64 - (by)))

HOT void hash_round(u64 *v)
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = ROTATED(v[1], 13) ^ v[0];
	v[3] = ROTATED(v[3], 16) ^ v[2];
	v[0] = ROTATED(v[0], 32) + v[3];
	v[2] += v[1];
	v[3] = ROTATED(v[3], 21) ^ v[0];
	v[1] = ROTATED(v[1], 17) ^ v[2];
	v[2] = ROTATED(v[2], 32);
}

HOT void hash_word(u64 *v, u64 word)
{
	v[3] ^= word;
	hash_round(v);
	v[0] ^= word;
}

static long hash_step(u32 i, struct hash_walk *w)
{
	hash_word(w->s->lanes, *(u64 *)(w->s->data + ((w->start + i * 8) & (2 * ARGV_ROOM - 1))));
	return 0;
}

/*
 * Keyed, so that a workload cannot make two strings share an id. The caller zeroes the eight bytes
 * after the string, since whole words are read.
 */
HOT u64 hash_of(struct scratch *s, u32 start, u32 len, u32 kind)
{
	struct hash_walk w = { .s = s, .start = start };
	u64 *v = s->lanes;

	v[0] = fixed.hash_key[0] ^ 0x736f6d6570736575ULL;
	v[1] = fixed.hash_key[1] ^ 0x646f72616e646f6dULL;
	v[2] = fixed.hash_key[0] ^ 0x6c7967656e657261ULL;
	v[3] = fixed.hash_key[1] ^ 0x7465646279746573ULL;
	bpf_loop((len + 7) / 8, hash_step, &w, 0);
	hash_word(v, (u64)kind << 56 | len);
	v[2] ^= 0xff;
	hash_round(v);
	hash_round(v);
	hash_round(v);
	return (v[0] ^ v[1] ^ v[2] ^ v[3]) ?: 1;
}

/* As cgroup_of; cgroup_skb programs have no helper for it before 6.2. */
static __noinline u64 acting_cgroup(void)
{
	return cgroup_of((void *)bpf_get_current_task());
}

__noinline int path_labels(struct scratch *s, u32 start, u32 len, u32 id); /* label.h */

#define BULK_STRING (1u << 31) /* of a bulk event: may be shed by the governor */

/*
 * The header goes right before the data, so that one ringbuf_output sends both: start >= 24.
 * The id becomes visible only after its record is in the ring; when the ring is full, it never does.
 */
__noinline u32 intern_at(struct scratch *s, u32 start, u32 len, u32 kind_marks, u32 orig_len)
{
	struct seen *old, new;
	struct hw_string *h;
	u64 key, end, at, size, room;

	if (!s)
		return 0;
	FRESH(start);
	FRESH(len);
	if (start < sizeof(*h) || start > ARGV_ROOM || len > ARGV_ROOM)
		return 0;
	end = start + len;
	FRESH(end);
	if (end > 2 * ARGV_ROOM)
		return 0;
	*(u64 *)&s->data[end] = 0;
	key = hash_of(s, start, len, kind_marks & 0xffff);
	old = bpf_map_lookup_elem(&seen, &key);
	if (old && old->epoch == settings.epoch)
		return old->id;
	if (settings.governed >= 2 && kind_marks & BULK_STRING)
		return SHED;
	/*
	 * Whoever opens many new files must not take a container's path, or a program's, from those
	 * who wait for it: half of the ring for anyone, a quarter in shares, the last for vital events.
	 */
	room = ring_size(&strings);
	if (kind_marks & BULK_STRING && ring_used(&strings) > room / 2 &&
	    (ring_used(&strings) > room / 4 * 3 ||
	     !within_share(acting_cgroup(), kind_marks & 0xffff, true, sizeof(*h) + len, room / SHARES))) {
		lost(HW_L_STRING, HW_NONE, acting_cgroup());
		return 0;
	}
	new.id = __sync_fetch_and_add(&settings.next_id, 2);
	new.epoch = settings.epoch;
	at = start - sizeof(*h);
	size = sizeof(*h) + len;
	FRESH(at);
	FRESH(size);
	if (at > ARGV_ROOM || size > ARGV_ROOM + sizeof(*h))
		return 0;
	h = (void *)&s->data[at];
	h->key = key;
	h->id = new.id;
	h->orig_len = orig_len;
	h->len = len;
	h->kind = kind_marks & 0xffff;
	h->marks = kind_marks >> 16 & 0x7fff;
	if (bpf_ringbuf_output(&strings, h, size, BPF_RB_NO_WAKEUP)) {
		lost(HW_L_STRING, HW_NONE, acting_cgroup());
		return 0;
	}
	bpf_map_update_elem(&seen, &key, &new, BPF_ANY);
	return new.id;
}

/* ---- paths ------------------------------------------------------------------------------- */

#define PATH_END 8192 /* paths are built backwards from here; the caller's text is put after it */

struct path_walk {
	u8 *data;
	struct dentry *dentry;
	struct mount *mount;
	u32 pos;  /* of the first byte built so far */
	u32 want; /* bytes the whole path has, cut or not */
	u32 full; /* a name did not fit: no further one is put in, however short */
	struct dentry *within; /* of a file system, instead of mounts: its root */
};

static long path_step(u32 i, struct path_walk *w)
{
	struct dentry *dentry = w->dentry, *parent, *root;
	struct mount *mount = w->mount;
	u64 hash_len;
	const unsigned char *name;
	u32 len, at;

	parent = BPF_CORE_READ(dentry, d_parent);
	if (w->within && (dentry == w->within || dentry == parent))
		return 1;
	root = w->within ? w->within : BPF_CORE_READ(mount, mnt.mnt_root);
	if (dentry == root || dentry == parent) {
		struct mount *up = BPF_CORE_READ(mount, mnt_parent);

		if (dentry != root) {
			/* Not below the mount: a pseudo file, whose whole path is its name ("memfd:x"). */
			hash_len = BPF_CORE_READ(dentry, d_name.hash_len);
			len = hash_len >> 32;
			name = BPF_CORE_READ(dentry, d_name.name);
			at = w->pos - len;
			FRESH(at);
			FRESH(len);
			if (len <= 255 && at <= PATH_END) { /* len 0 changes nothing */
				bpf_probe_read_kernel(&w->data[at], len, name);
				w->pos = at;
				w->want += len;
			}
			return 1;
		}
		if (up == mount)
			return 1;
		w->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		w->mount = up;
		return 0;
	}
	hash_len = BPF_CORE_READ(dentry, d_name.hash_len);
	name = BPF_CORE_READ(dentry, d_name.name);
	len = hash_len >> 32;
	w->want += len + 1;
	w->dentry = parent;
	if (len > 255)
		len = 255;
	if (w->full || w->pos < PATH_END - PATH_ROOM + len + 1) {
		w->full = 1; /* too long: keep the end, go on counting */
		return 0;
	}
	at = w->pos - len - 1;
	FRESH(at);
	FRESH(len);
	if (at > PATH_END || len > 255)
		return 1;
	w->data[at] = '/';
	bpf_probe_read_kernel(&w->data[at + 1], len, name);
	w->pos = at;
	return 0;
}

/* Builds the kernel's path of (mnt, dentry) in s->data[start .. PATH_END); returns start. */
HOT u32 path_build(struct scratch *s, struct vfsmount *mnt, struct dentry *dentry, u32 *want)
{
	struct path_walk w = {
		.data = s->data,
		.dentry = dentry,
		.mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt),
		.pos = PATH_END,
	};

	bpf_loop(2048 + 64, path_step, &w, 0);
	if (w.pos == PATH_END) {
		s->data[PATH_END - 1] = '/';
		w.pos = PATH_END - 1;
		w.want = 1;
	}
	*want = w.want;
	return w.pos;
}

/*
 * Pseudo files (pipes, sockets, memfd, anon inodes) have a dentry without a path: "memfd:name".
 * Their super block has no mount point, so the walk ends at once with only the name.
 */
HOT u32 intern_path(struct scratch *s, u64 mnt, u64 dentry, u32 bulk_string)
{
	u32 want = 0, start, len, marks = 0, next = settings.next_id, id;

	if (!s || !mnt || !dentry)
		return 0;
	start = path_build(s, (void *)mnt, (void *)dentry, &want);
	if (start > PATH_END)
		return 0;
	len = PATH_END - start;
	if (want > len)
		marks = HW_M_TRUNCATED;
	id = intern_at(s, start, len, HW_S_PATH | marks << 16 | bulk_string, want);
	if (settings.label_paths && id >= next && id != SHED) /* a new one */
		path_labels(s, start, len, id);
	return id;
}

/* ---- the cheap key ------------------------------------------------------------------------ */

struct path_key { u64 dentry, mnt; };
/* What is at the pointers now. */
struct path_now { u64 parent, hash_len, inode, mount_id, moves; };
struct path_known {
	struct path_now of;
	u32 id, epoch;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct path_key);
	__type(value, struct path_known);
} paths SEC(".maps");

HOT void path_now(struct path_now *now, u64 mnt, u64 dentry)
{
	struct dentry *d = (void *)dentry;
	struct mount *m = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	u32 number = 0;

	bpf_core_read(&now->parent, 8, &d->d_parent);
	bpf_core_read(&now->hash_len, 8, &d->d_name.hash_len);
	bpf_core_read(&now->inode, 8, &d->d_inode);
	if (bpf_core_field_exists(struct mount, mnt_id_unique)) {
		bpf_core_read(&now->mount_id, 8, &m->mnt_id_unique);
	} else {
		bpf_core_read(&now->mount_id, 8, &m->mnt_mountpoint);
		bpf_core_read(&number, 4, &m->mnt_id);
		now->mount_id ^= (u64)number << 48;
	}
	now->moves = settings.path_generation;
}

HOT bool is_same_path(const struct path_now *a, const struct path_now *b)
{
	return a->parent == b->parent && a->hash_len == b->hash_len && a->inode == b->inode &&
	       a->mount_id == b->mount_id && a->moves == b->moves;
}

/*
 * Dictionary id of a path. A pointer may be reused for another file, so what is known about it is
 * believed only while parent, name, inode and mount agree and no directory has moved since.
 */
__noinline u32 path_id(u64 mnt, u64 dentry, u32 bulk_string, u32 cls, u64 cgroup)
{
	struct path_key key = { .dentry = dentry, .mnt = mnt };
	struct path_known new = {}, *old;
	struct scratch *s;

	path_now(&new.of, mnt, dentry);
	old = bpf_map_lookup_elem(&paths, &key);
	if (old && is_same_path(&old->of, &new.of) && old->epoch == settings.epoch)
		return old->id;
	new.epoch = settings.epoch;
	s = scratch_get(cls, cgroup);
	if (!s)
		return 0;
	new.id = intern_path(s, mnt, dentry, bulk_string);
	scratch_put(s);
	if (new.id && new.id != SHED)
		bpf_map_update_elem(&paths, &key, &new, BPF_ANY);
	return new.id;
}

HOT void directories_moved(void)
{
	__sync_fetch_and_add(&settings.path_generation, 1);
}

/*
 * Paths must be void after the move as well as before it: one that is looked up in between is still
 * the old one. The LSM hook, which runs before, leaves word here for the exit of the call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* pid_tgid */
	__type(value, u8);
} moving SEC(".maps");

HOT void directory_moving(void)
{
	u64 key = bpf_get_current_pid_tgid();
	u8 yes = 1;

	directories_moved();
	bpf_map_update_elem(&moving, &key, &yes, BPF_ANY);
}

HOT void rename_ended(void)
{
	u64 key = bpf_get_current_pid_tgid();

	/* Without the hook it is not known whether a directory was moved. */
	if (!fixed.lsm_tier || !bpf_map_delete_elem(&moving, &key))
		directories_moved();
}

/* ---- the caller's text -------------------------------------------------------------------- */

/* A NUL-terminated string of the caller, or of the kernel, as it is. */
HOT u32 intern_read(struct scratch *s, u64 text, u32 kind_marks, bool from_kernel)
{
	long n;

	if (!s || !text)
		return 0;
	n = from_kernel ? bpf_probe_read_kernel_str(&s->data[64], PATH_ROOM, (void *)text)
			: bpf_probe_read_user_str(&s->data[64], PATH_ROOM, (void *)text);
	if (n < 0)
		return 0;
	if (n > 0)
		n--;
	if (n > PATH_ROOM)
		return 0;
	return intern_at(s, 64, n, kind_marks, n);
}

__noinline u32 intern_text(struct scratch *s, u64 text, u32 kind_marks)
{
	return intern_read(s, text, kind_marks, false);
}

__noinline u32 intern_kernel_text(struct scratch *s, u64 text, u32 kind_marks)
{
	return intern_read(s, text, kind_marks, true);
}

/*
 * The caller's path, made absolute: kernel path of the directory it is relative to, '/', its text.
 * For calls whose dentry cannot be had after the fact (rename, unlink, ...). Symlinks on the way
 * stay unresolved, which the event's HW_M_RAW_PATH says; user space normalises dots.
 */
__noinline u32 intern_joined(struct scratch *s, int dfd, u64 text, u32 from_kernel)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 start = PATH_END, want = 0, marks = 0;
	u64 mnt, dentry;
	u8 first = 0;
	long n;

	if (!s || !text)
		return 0;
	if (from_kernel)
		n = bpf_probe_read_kernel_str(&s->data[PATH_END + 1], PATH_ROOM, (void *)text);
	else
		n = bpf_probe_read_user_str(&s->data[PATH_END + 1], PATH_ROOM, (void *)text);
	if (n < 0 || n > PATH_ROOM)
		return 0;
	if (n > 0) /* an empty text gives 0 before 6.13, 1 since */
		n--;
	s->data[PATH_END + 1 + n] = 0;
	first = s->data[PATH_END + 1];
	if (first == '/')
		return intern_at(s, PATH_END + 1, n, HW_S_JOINED | BULK_STRING, n);
	if (dfd == AT_FDCWD) {
		mnt = (u64)BPF_CORE_READ(task, fs, pwd.mnt);
		dentry = (u64)BPF_CORE_READ(task, fs, pwd.dentry);
	} else {
		struct file **fds = BPF_CORE_READ(task, files, fdt, fd);
		struct file *file = NULL;

		if (dfd < 0 || (u32)dfd >= BPF_CORE_READ(task, files, fdt, max_fds))
			return 0;
		bpf_probe_read_kernel(&file, sizeof(file), fds + dfd);
		if (!file)
			return 0;
		mnt = (u64)BPF_CORE_READ(file, f_path.mnt);
		dentry = (u64)BPF_CORE_READ(file, f_path.dentry);
	}
	start = path_build(s, (void *)mnt, (void *)dentry, &want);
	s->data[PATH_END] = '/';
	if (start > PATH_END || start < PATH_END - PATH_ROOM)
		return 0;
	if (want > PATH_END - start)
		marks = HW_M_TRUNCATED;
	return intern_at(s, start, PATH_END - start + 1 + n, HW_S_JOINED | marks << 16 | BULK_STRING,
			 want + 1 + n);
}

#endif
