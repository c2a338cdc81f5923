/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Files. Tracepoint tier: at the exit of the call, through the fd for opens; calls that leave no fd
 * (rename, unlink, ...) are reported with the caller's text and HW_M_RAW_PATH. LSM tier: from the
 * hooks, with the kernel's path for all of them, io_uring included; failed opens still from the exit.
 */
#include "label.h"

#define FMODE_EXEC 0x20
#define FMODE_CREATED 0x100000
#define FMODE_NOACCOUNT 0x20000000

/* Did the file come with the image, or into the container's writable layer? 0: on no overlay. */
HOT u16 layer_of(struct inode *inode)
{
	if (!on_overlay(inode))
		return 0;
	return on_upper_layer(inode) ? HW_M_UPPER : HW_M_LOWER;
}

HOT u16 file_marks(struct inode *inode, struct dentry *dentry, u32 f_mode, u64 *dev)
{
	u16 type = BPF_CORE_READ(inode, i_mode) & S_IFMT, marks = 0;

	*dev = BPF_CORE_READ(inode, i_sb, s_dev);
	if (type == S_IFCHR || type == S_IFBLK) {
		marks |= HW_M_DEVICE;
		*dev = BPF_CORE_READ(inode, i_rdev);
	} else if (type == S_IFDIR) {
		marks |= HW_M_DIR;
	} else if (type != S_IFREG) {
		marks |= HW_M_NOT_REGULAR;
	}
	if (unlinked(dentry))
		marks |= HW_M_UNLINKED;
	if (f_mode & FMODE_CREATED)
		marks |= HW_M_CREATED;
	return marks;
}

/* obj_marks_op: object, marks and op, from the top; ret_flags: the result above the flags. */
__noinline int opened_as(u64 file_address, u64 obj_marks_op, u64 ret_flags, u64 text)
{
	struct file *file = (void *)file_address;
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	u32 f_mode = BPF_CORE_READ(file, f_mode);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	u16 layer = layer_of(inode);
	struct hw_event e;
	u32 obj = obj_marks_op >> 32;
	int how = AS_BULK;
	struct who w;

	current_who(&w);
	w.same = ret_flags;
	if (obj && obj != SHED)
		how = wanted(&w, obj, HW_OPEN | (f_mode & FMODE_WRITE ? HW_ACTION_WRITE : 0) |
					      (layer & HW_M_UPPER ? HW_ACTION_UPPER : 0));
	if (!how)
		return 0;
	event_fill(&e, &w, HW_OPEN, obj_marks_op);
	e.obj = obj;
	if (text && obj != SHED)
		e.obj2 = user_text(text, HW_S_RAW | BULK_STRING, HW_OPEN, w.cgroup);
	e.ret = ret_flags >> 32;
	e.flags = ret_flags;
	e.num = BPF_CORE_READ(inode, i_ino);
	e.marks = (u16)(obj_marks_op >> 16) | layer | file_marks(inode, dentry, f_mode, &e.num2);
	report(&e, HAS_OBJECT | how);
	return 0;
}

/*
 * A file was opened: the common end of the exit handler, the LSM hook and io_uring. Its path is made
 * here, where the stack is not deep yet.
 */
HOT int opened(u64 file, u32 op_marks, s32 ret, u32 flags, u64 text)
{
	u64 obj = path_of_file((void *)file, BULK_STRING, HW_OPEN, bpf_get_current_cgroup_id());

	return opened_as(file, obj << 32 | op_marks, (u64)(u32)ret << 32 | flags, text);
}

__noinline int open_failed(u32 op_marks, int dfd, u64 text, u32 flags, s32 ret)
{
	struct hw_event e;
	int how = AS_BULK;
	struct who w;

	current_who(&w);
	event_fill(&e, &w, HW_OPEN, op_marks & 0xffff);
	e.ret = ret;
	e.flags = flags;
	e.marks = op_marks >> 16 | HW_M_RAW_PATH;
	if (text) {
		e.obj = joined_path(dfd, text, 0, HW_OPEN, w.cgroup);
		how = asked(&w, &e, HW_OPEN | (flags & O_ACCMODE ? HW_ACTION_WRITE : 0));
		if (!how)
			return 0;
		e.obj2 = user_text(text, HW_S_RAW | BULK_STRING, HW_OPEN, w.cgroup);
	}
	report(&e, (text ? HAS_OBJECT : 0) | how);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(exit_open, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 marks, op = call_start(regs, &compat, &marks);
	u64 text = 0, flags = 0;
	int dfd = AT_FDCWD;
	struct file *file;

	if (!op || (ret >= 0 && fixed.lsm_tier))
		return 0;
	switch (op) {
	case HW_OP_open:
		text = call_arg(regs, 0, compat);
		flags = call_arg(regs, 1, compat);
		break;
	case HW_OP_openat:
		dfd = call_arg(regs, 0, compat);
		text = call_arg(regs, 1, compat);
		flags = call_arg(regs, 2, compat);
		break;
	case HW_OP_openat2:
		dfd = call_arg(regs, 0, compat);
		text = call_arg(regs, 1, compat);
		bpf_probe_read_user(&flags, sizeof(flags), (void *)call_arg(regs, 2, compat));
		break;
	case HW_OP_creat:
		text = call_arg(regs, 0, compat);
		flags = O_CREAT | O_WRONLY | O_TRUNC;
		break;
	case HW_OP_open_by_handle_at:
		flags = call_arg(regs, 2, compat);
		break;
	default:
		return 0;
	}
	if (ret < 0)
		return open_failed(op | marks << 16, dfd, text, flags, ret);
	file = file_of(ret);
	if (file)
		opened((u64)file, op | marks << 16, ret, flags, text);
	if (file && settings.labels)
		label_opened((u64)file);
	return 0;
}

/* Two paths: rename, link, symlink. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_path2, struct pt_regs *regs, long ret)
{
	struct call *call = call_of(regs, is_compat());
	int dfd1 = AT_FDCWD, dfd2 = AT_FDCWD;
	u64 text1, text2, flags = 0;
	u16 cls, marks, op;
	struct hw_event e;
	struct who w;
	bool compat;

	/* The sensor's own renames are no event, but move directories like any other. */
	if (call && ret == 0 && call->op >= HW_OP_rename && call->op <= HW_OP_renameat2)
		rename_ended();
	op = call_start(regs, &compat, &marks);
	if (!op || (fixed.lsm_tier && ret >= 0))
		return 0;
	switch (op) {
	case HW_OP_rename:
	case HW_OP_link:
	case HW_OP_symlink:
		text1 = call_arg(regs, 0, compat);
		text2 = call_arg(regs, 1, compat);
		break;
	case HW_OP_symlinkat:
		text1 = call_arg(regs, 0, compat);
		dfd2 = call_arg(regs, 1, compat);
		text2 = call_arg(regs, 2, compat);
		break;
	default:
		dfd1 = call_arg(regs, 0, compat);
		text1 = call_arg(regs, 1, compat);
		dfd2 = call_arg(regs, 2, compat);
		text2 = call_arg(regs, 3, compat);
		if (op != HW_OP_renameat)
			flags = call_arg(regs, 4, compat);
	}
	cls = op == HW_OP_symlink || op == HW_OP_symlinkat ? HW_SYMLINK :
	      op == HW_OP_link || op == HW_OP_linkat	   ? HW_LINK : HW_RENAME;
	current_who(&w);
	event_fill(&e, &w, cls, op);
	e.ret = ret;
	e.flags = flags;
	e.marks = marks | HW_M_RAW_PATH;
	if (cls == HW_SYMLINK)
		e.obj = user_text(text1, HW_S_RAW | BULK_STRING, cls, w.cgroup);
	else
		e.obj = joined_path(dfd1, text1, 0, cls, w.cgroup);
	e.obj2 = joined_path(dfd2, text2, 0, cls, w.cgroup);
	w.same = e.flags ^ (ret < 0 ? ret : 0);
	if (e.obj && e.obj2 && e.obj != SHED && e.obj2 != SHED && !wanted_pair(&w, e.obj, e.obj2, cls))
		return 0;
	report(&e, HAS_OBJECT | AS_BULK);
	return 0;
}

/* One path or fd: unlink, mkdir, chmod, chown, truncate. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_path1, struct pt_regs *regs, long ret)
{
	bool compat;
	u16 cls, marks, op = call_start(regs, &compat, &marks);
	int dfd = AT_FDCWD, at = 0, how;
	struct hw_event e;
	struct who w;

	if (!op || (fixed.lsm_tier && ret >= 0))
		return 0;
	current_who(&w);
	event_fill(&e, &w, HW_NONE, op);
	switch (op) {
	case HW_OP_unlinkat:
	case HW_OP_mkdirat:
	case HW_OP_fchmodat:
	case HW_OP_fchmodat2:
	case HW_OP_fchownat:
		dfd = call_arg(regs, 0, compat);
		at = 1;
	}
	switch (op) {
	case HW_OP_unlink:
		cls = HW_UNLINK;
		break;
	case HW_OP_unlinkat:
		e.flags = call_arg(regs, 2, compat);
		cls = e.flags & 0x200 ? HW_RMDIR : HW_UNLINK; /* AT_REMOVEDIR */
		break;
	case HW_OP_rmdir:
		cls = HW_RMDIR;
		break;
	case HW_OP_mkdir:
	case HW_OP_mkdirat:
		cls = HW_MKDIR;
		e.flags = at ? call_arg(regs, 2, compat) : call_arg(regs, 1, compat);
		break;
	case HW_OP_chmod:
	case HW_OP_fchmod:
	case HW_OP_fchmodat:
	case HW_OP_fchmodat2:
		cls = HW_CHMOD;
		e.flags = at ? call_arg(regs, 2, compat) : call_arg(regs, 1, compat);
		break;
	case HW_OP_truncate:
		cls = HW_OPEN;
		e.flags = O_WRONLY | O_TRUNC;
		e.ret = ret;
		break;
	default:
		cls = HW_CHOWN;
		e.num = at ? call_arg(regs, 2, compat) : call_arg(regs, 1, compat);
		e.num2 = at ? call_arg(regs, 3, compat) : call_arg(regs, 2, compat);
	}
	e.cls = cls;
	e.ret = ret;
	e.marks = marks;
	if (op == HW_OP_fchmod || op == HW_OP_fchown) {
		struct file *file = file_of(call_arg(regs, 0, compat));

		if (file)
			e.obj = path_of_file(file, BULK_STRING, cls, w.cgroup);
	} else {
		e.marks |= HW_M_RAW_PATH;
		e.obj = joined_path(dfd, at ? call_arg(regs, 1, compat) : call_arg(regs, 0, compat), 0,
				    cls, w.cgroup);
	}
	how = asked(&w, &e, cls == HW_OPEN ? HW_OPEN | HW_ACTION_WRITE : cls);
	if (how)
		report(&e, HAS_OBJECT | how);
	return 0;
}

/* Code: files mapped to be executed, and memory that is writable and executable at once. */
SEC("tp_btf/sys_exit")
int BPF_PROG(exit_mmap, struct pt_regs *regs, long ret)
{
	bool compat = is_compat();
	u64 prot = call_arg(regs, 2, compat), length = call_arg(regs, 1, compat);
	struct file *file = NULL;
	struct hw_event e;
	u16 marks, op;
	struct who w;
	int how;

	if (!(prot & PROT_EXEC)) /* nearly all of them end here */
		return 0;
	op = call_start(regs, &compat, &marks);
	if (!op || (ret < 0 && ret > -4096))
		return 0;
	if (op == HW_OP_mmap && !(call_arg(regs, 3, compat) & 0x20)) /* MAP_ANONYMOUS */
		file = file_of(call_arg(regs, 4, compat));
	if (!file && !(prot & PROT_WRITE))
		return 0;
	current_who(&w);
	event_fill(&e, &w, file ? HW_MMAP : HW_MPROTECT, op);
	e.flags = prot;
	e.num = length;
	e.marks = marks;
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);

		e.num2 = BPF_CORE_READ(inode, i_sb, s_dev);
		e.marks |= layer_of(inode);
		e.obj = path_of_file(file, BULK_STRING, HW_MMAP, w.cgroup);
	}
	how = file ? asked(&w, &e, HW_MMAP | (e.marks & HW_M_UPPER ? HW_ACTION_UPPER : 0)) : wanted(&w, 0, HW_MPROTECT);
	if (how)
		report(&e, (file ? HAS_OBJECT : 0) | how);
	return 0;
}

/* ---- LSM tier ---------------------------------------------------------------------------- */

/* The call behind a hook: its op, and whether io_uring stands in between. */
HOT u16 hook_op(u16 *marks)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs = (void *)bpf_task_pt_regs(task);
	u32 nr;
	struct call *call;

	*marks = HW_M_ATTEMPT;
#if defined(__TARGET_ARCH_x86)
	nr = (u32)BPF_CORE_READ(regs, orig_ax) & ~0x40000000u;
#else
	nr = BPF_CORE_READ(regs, syscallno);
#endif
	if (task->flags & 0x10 || nr == 426) { /* PF_IO_WORKER; io_uring_enter */
		*marks |= HW_M_IO_URING;
		return 0;
	}
	if (nr >= NATIVE_CALLS)
		return 0;
	if (is_compat()) {
		*marks |= HW_M_COMPAT;
		nr += NATIVE_CALLS;
	}
	call = bpf_map_lookup_elem(&calls, &nr);
	return call ? call->op : 0;
}

/* Where the caller's text of an open lies, from the registers of its system call. */
HOT u64 hook_text(u16 op)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	bool second = op == HW_OP_openat || op == HW_OP_openat2;

	if (!second && op != HW_OP_open && op != HW_OP_creat)
		return 0;
#if defined(__TARGET_ARCH_x86)
	return second ? BPF_CORE_READ(regs, si) : BPF_CORE_READ(regs, di);
#else
	return BPF_CORE_READ(regs, regs[1]);
#endif
}

SEC("lsm/file_open")
int BPF_PROG(lsm_file_open, struct file *file)
{
	u32 f_mode = file->f_mode;
	u16 marks, op;

	/* Program files are the exec event's; backing files are overlayfs opening its own layers. */
	if (f_mode & (FMODE_EXEC | FMODE_NOACCOUNT) || file->f_flags & 0x20 || is_own())
		return 0;
	op = hook_op(&marks);
	opened(address_of(ctx, 0), op | marks << 16, 0, file->f_flags, marks & HW_M_COMPAT ? 0 : hook_text(op));
	if (settings.labels)
		label_opened(address_of(ctx, 0));
	return 0;
}

__noinline int changed(u32 cls, u64 path_mnt, u64 dentry, u32 flags, u64 ids)
{
	struct hw_event e;
	struct who w;
	u16 marks, op;
	int how;

	if (is_own())
		return 0;
	op = hook_op(&marks);
	current_who(&w);
	event_fill(&e, &w, cls, op);
	e.marks = marks;
	e.flags = flags;
	e.num = (u32)ids;
	e.num2 = ids >> 32;
	e.obj = path_id(path_mnt, dentry, BULK_STRING, cls, w.cgroup);
	how = asked(&w, &e, cls == HW_OPEN ? HW_OPEN | HW_ACTION_WRITE : cls);
	if (how)
		report(&e, HAS_OBJECT | how);
	return 0;
}

__noinline int changed_pair(u32 cls, u32 obj, u32 obj2)
{
	struct hw_event e;
	struct who w;
	u16 marks, op = hook_op(&marks);

	current_who(&w);
	event_fill(&e, &w, cls, op);
	e.marks = marks;
	e.obj = obj;
	e.obj2 = obj2;
	if (obj && obj2 && obj != SHED && obj2 != SHED && !wanted_pair(&w, obj, obj2, cls))
		return 0;
	report(&e, HAS_OBJECT | AS_BULK);
	return 0;
}

#define MNT(path) ((u64)BPF_CORE_READ(path, mnt))

SEC("lsm/path_unlink")
int BPF_PROG(lsm_unlink, const struct path *dir, struct dentry *dentry)
{
	changed(HW_UNLINK, MNT(dir), address_of(ctx, 1), 0, 0);
	return 0;
}

SEC("lsm/path_rmdir")
int BPF_PROG(lsm_rmdir, const struct path *dir, struct dentry *dentry)
{
	changed(HW_RMDIR, MNT(dir), address_of(ctx, 1), 0, 0);
	return 0;
}

SEC("lsm/path_mkdir")
int BPF_PROG(lsm_mkdir, const struct path *dir, struct dentry *dentry, u16 mode)
{
	changed(HW_MKDIR, MNT(dir), address_of(ctx, 1), mode, 0);
	return 0;
}

SEC("lsm/path_chmod")
int BPF_PROG(lsm_chmod, const struct path *path, u16 mode)
{
	changed(HW_CHMOD, MNT(path), (u64)BPF_CORE_READ(path, dentry), mode, 0);
	return 0;
}

SEC("lsm/path_chown")
int BPF_PROG(lsm_chown, const struct path *path, u64 uid, u64 gid)
{
	changed(HW_CHOWN, MNT(path), (u64)BPF_CORE_READ(path, dentry), 0, (u32)uid | (u64)(u32)gid << 32);
	return 0;
}

SEC("lsm/path_truncate")
int BPF_PROG(lsm_truncate, const struct path *path)
{
	u16 marks;

	/* Opens with O_TRUNC come by here too, and have been told. */
	if (hook_op(&marks) == HW_OP_truncate)
		changed(HW_OPEN, MNT(path), (u64)BPF_CORE_READ(path, dentry), O_WRONLY | O_TRUNC, 0);
	return 0;
}

SEC("lsm/path_rename")
int BPF_PROG(lsm_rename, const struct path *old_dir, struct dentry *old, const struct path *new_dir,
	     struct dentry *new)
{
	struct inode *inode = BPF_CORE_READ(old, d_inode);
	u64 cgroup = bpf_get_current_cgroup_id();

	if (inode && (BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFDIR)
		directory_moving();
	if (is_own())
		return 0;
	changed_pair(HW_RENAME,
		     path_id(MNT(old_dir), address_of(ctx, 1), BULK_STRING, HW_RENAME, cgroup),
		     path_id(MNT(new_dir), address_of(ctx, 3), BULK_STRING, HW_RENAME, cgroup));
	return 0;
}

SEC("lsm/path_link")
int BPF_PROG(lsm_link, struct dentry *old, const struct path *new_dir, struct dentry *new)
{
	u64 cgroup = bpf_get_current_cgroup_id();

	if (is_own())
		return 0;
	changed_pair(HW_LINK, path_id(MNT(new_dir), address_of(ctx, 0), BULK_STRING, HW_LINK, cgroup),
		     path_id(MNT(new_dir), address_of(ctx, 2), BULK_STRING, HW_LINK, cgroup));
	return 0;
}

SEC("lsm/path_symlink")
int BPF_PROG(lsm_symlink, const struct path *dir, struct dentry *dentry)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	struct scratch *s;
	u32 text = 0;

	if (is_own())
		return 0;
	s = scratch_get(HW_SYMLINK, cgroup);
	if (s) {
		text = intern_kernel_text(s, address_of(ctx, 2), HW_S_RAW | BULK_STRING);
		scratch_put(s);
	}
	changed_pair(HW_SYMLINK, text,
		     path_id(MNT(dir), address_of(ctx, 1), BULK_STRING, HW_SYMLINK, cgroup));
	return 0;
}
