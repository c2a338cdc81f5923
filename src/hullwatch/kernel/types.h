/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel types in use, and only the fields in use. CO-RE relocates every access to the layout
 * of the running kernel, so order and size here mean nothing. A ___suffix names an older shape.
 */
#ifndef HULLWATCH_TYPES_H
#define HULLWATCH_TYPES_H

#include <linux/types.h>
#include <linux/bpf.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inode;
struct dentry;
struct file;
struct sock;
struct super_block;

struct ns_common { unsigned int inum; };
struct user_namespace { struct ns_common ns; };
struct pid_namespace { struct ns_common ns; };
struct mnt_namespace { struct ns_common ns; };
struct uts_namespace { struct ns_common ns; };
struct ipc_namespace { struct ns_common ns; };
struct cgroup_namespace { struct ns_common ns; };
struct net { struct ns_common ns; };
struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct cgroup_namespace *cgroup_ns;
};

typedef struct { unsigned int val; } kuid_t;
typedef struct { unsigned int val; } kgid_t;
/* Two u32 before 6.3 (f122a08b197d), one u64 since: 8 bytes at the same place either way. */
typedef struct { u64 val; } kernel_cap_t;

struct cred {
	kuid_t uid, suid, euid, fsuid;
	kgid_t gid, sgid, egid, fsgid;
	kernel_cap_t cap_inheritable, cap_permitted, cap_effective;
	struct user_namespace *user_ns;
};

struct qstr { u64 hash_len; u32 hash; u32 len; const unsigned char *name; };
struct hlist_bl_node { struct hlist_bl_node *next, **pprev; };
struct dentry {
	unsigned int d_flags;
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};
struct vfsmount { struct dentry *mnt_root; struct super_block *mnt_sb; int mnt_flags; };
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
	int mnt_id;
	u64 mnt_id_unique; /* 6.8 */
	u32 mnt_fsnotify_mask;
};
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct file_system_type { const char *name; };
struct super_block { u32 s_dev; unsigned long s_magic; struct file_system_type *s_type; struct dentry *s_root; u32 s_fsnotify_mask; };
struct timespec64 { s64 tv_sec; long tv_nsec; };
struct inode {
	unsigned short i_mode;
	kuid_t i_uid;
	unsigned long i_ino;
	u32 i_rdev, i_generation;
	unsigned int i_nlink;
	struct super_block *i_sb;
	s64 i_mtime_sec, i_ctime_sec;
	u32 i_mtime_nsec, i_ctime_nsec;
};
struct inode___old { struct timespec64 i_mtime, i_ctime; };   /* until 6.6 */
struct inode___mid { struct timespec64 __i_mtime, __i_ctime; }; /* 6.6 to 6.11 */
struct file {
	unsigned int f_mode;
	void *private_data;
	struct inode *f_inode;
	unsigned int f_flags;
	struct path f_path;
};
struct fdtable { unsigned int max_fds; struct file **fd; };
struct files_struct { struct fdtable *fdt; };
struct fs_struct { struct path root, pwd; };

struct mm_struct {
	unsigned long arg_start, arg_end, env_start, env_end;
	struct file *exe_file;
};
struct tty_driver { int major, minor_start; };
struct tty_struct { int index; struct tty_driver *driver; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { unsigned int level; struct upid numbers[1]; };
typedef struct { int counter; } atomic_t;
typedef struct { s64 counter; } atomic64_t;
struct signal_struct {
	atomic_t live;
	struct pid *pids[4]; /* PIDTYPE_PID, TGID, PGID, SID */
	int group_exit_code;
	struct tty_struct *tty;
};
struct kernfs_node { u64 id; const char *name; };
struct cgroup_root { int hierarchy_id; };
struct cgroup { struct kernfs_node *kn; struct cgroup_root *root; };
struct css_set { struct cgroup *dfl_cgrp; };
struct thread_info { u32 status; };
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid, tgid;
	int exit_code;
	unsigned in_execve : 1;
	struct task_struct *real_parent, *group_leader;
	u64 start_boottime;
	u64 self_exec_id;
	char comm[16];
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	const struct cred *real_cred, *cred;
	struct pid *thread_pid;
	struct css_set *cgroups;
	kuid_t loginuid;
	unsigned int sessionid;
};
struct linux_binprm {
	struct file *file;
	struct cred *cred;
	const char *filename, *interp;
};

struct in6 { u8 bytes[16]; };
struct sock_common {
	unsigned short skc_family;
	u32 skc_daddr, skc_rcv_saddr;
	u16 skc_dport, skc_num;
	unsigned long skc_flags;
	struct in6 skc_v6_daddr, skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	volatile unsigned char skc_state;
};
struct socket;
struct sock { struct sock_common __sk_common; u16 sk_protocol; u16 sk_type; struct socket *sk_socket; };
struct inet_sock { u16 inet_sport; };
struct tcp_sock { u64 bytes_received, bytes_acked, bytes_sent, bytes_retrans; };
struct sockaddr_un___k { unsigned short sun_family; char sun_path[108]; };
struct unix_address { int len; struct sockaddr_un___k name[0]; };
struct unix_sock { struct sock sk; struct unix_address *addr; struct path path; struct sock *peer; };
struct socket { short type; struct file *file; struct sock *sk; };

struct filename { const char *name; };
struct io_cqe { int fd; };	/* 5.19 */
struct io_kiocb { struct file *file; u8 opcode; u32 flags; struct io_cqe cqe; void *async_data; };
struct io_uring_cqe { s32 res; };

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long ax, bx, cx, dx, si, di, bp, sp, r8, r9, r10, r14, orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs { u64 regs[31]; };
struct pt_regs { u64 regs[31]; u64 sp; u64 orig_x0; s32 syscallno; };
#endif

struct bpf_iter_meta { struct seq_file *seq; u64 session_id, seq_num; };
struct bpf_iter__task { struct bpf_iter_meta *meta; struct task_struct *task; };

#pragma clang attribute pop

enum { AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10, AF_PACKET = 17 };
enum { S_IFIFO = 0010000, S_IFMT = 00170000, S_IFSOCK = 0140000, S_IFLNK = 0120000, S_IFREG = 0100000,
       S_IFBLK = 0060000, S_IFDIR = 0040000, S_IFCHR = 0020000, S_ISUID = 04000, S_ISGID = 02000 };
enum { O_WRONLY = 1, O_RDWR = 2, O_ACCMODE = 3, O_CREAT = 0100, O_TRUNC = 01000, O_APPEND = 02000 };
enum { FMODE_READ = 1, FMODE_WRITE = 2 };
enum { PROT_WRITE = 2, PROT_EXEC = 4 };
enum { PF_KTHREAD = 0x00200000, AT_FDCWD = -100, ENOENT = 2, EFAULT = 14, EEXIST = 17, ENOSPC = 28, EINPROGRESS = 115 };
enum { TMPFS_MAGIC = 0x01021994, OVERLAYFS_MAGIC = 0x794c7630, PROC_MAGIC = 0x9fa0,
       SYSFS_MAGIC = 0x62656572, CGROUP2_MAGIC = 0x63677270, PIPEFS_MAGIC = 0x50495045 };

#endif
