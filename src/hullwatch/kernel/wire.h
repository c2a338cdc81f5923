/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire: everything that crosses from the kernel to user space, and nothing else.
 * sensor/wire.py derives its numpy dtypes from this file; tests hold both to the object's BTF.
 *
 * Rules: fixed-width types only, every struct packed by construction (no hidden padding).
 */
#ifndef HULLWATCH_WIRE_H
#define HULLWATCH_WIRE_H

/* Event classes: one row of sensor/events.py each. Names end up in the store and in rules. */
enum hw_class {
	HW_NONE = 0,
	/* process */
	HW_EXEC = 1,
	HW_FORK = 2,
	HW_EXIT = 3,
	HW_TASK = 4, /* a process that was there before the sensor */
	HW_EXEC_FAILED = 5, /* the caller goes on as what it was */
	/* file */
	HW_OPEN = 10,
	HW_RENAME = 11,
	HW_UNLINK = 12,
	HW_LINK = 13,
	HW_SYMLINK = 14,
	HW_MKDIR = 15,
	HW_RMDIR = 16,
	HW_CHMOD = 17,
	HW_CHOWN = 18,
	HW_MMAP = 19,
	/* network */
	HW_SOCKET = 30,
	HW_CONNECT = 31,
	HW_BIND = 32,
	HW_LISTEN = 33,
	HW_ACCEPT = 34,
	HW_SEND = 35,
	HW_FLOW = 36,
	HW_DNS = 37,
	HW_TLS = 38,
	HW_DUP = 39,
	/* sensitive system calls */
	HW_PTRACE = 50,
	HW_VM_ACCESS = 51,
	HW_MOUNT = 52,
	HW_UMOUNT = 53,
	HW_PIVOT_ROOT = 54,
	HW_UNSHARE = 55,
	HW_SETNS = 56,
	HW_SETID = 57,
	HW_CAPSET = 58,
	HW_BPF = 59,
	HW_PERF = 60,
	HW_MODULE = 61,
	HW_MEMFD = 62,
	HW_MPROTECT = 63,
	HW_USERFAULTFD = 64,
	HW_KEYCTL = 65,
	HW_KEXEC = 66,
	HW_IO_URING = 67,
	/* where information came from (label.h) */
	HW_LABEL = 70,
	/* what policy says of it (guard.h) */
	HW_POLICY = 71,
	/* container life cycle */
	HW_CGROUP_MKDIR = 80,
	HW_CGROUP_RMDIR = 81,
	/* made in user space, of what gateways and workloads tell (sensor/told.py) */
	HW_CALL = 90,
	HW_SIGNAL = 91,
	HW_CLASS_MAX = 96,
};

/* What is special about one event. */
enum hw_mark {
	HW_M_RAW_PATH = 1 << 0,	  /* text of the caller joined to a kernel path: symlinks not resolved */
	HW_M_STR_LOST = 1 << 1,	  /* a string of this event could not be delivered: its id is 0 */
	HW_M_IO_URING = 1 << 2,	  /* done through io_uring, not a system call */
	HW_M_COMPAT = 1 << 3,	  /* 32-bit system call */
	HW_M_ATTEMPT = 1 << 4,	  /* seen before the result: ret says nothing */
	HW_M_TRUNCATED = 1 << 5,  /* a string was cut: its dictionary record has the original length */
	HW_M_DEVICE = 1 << 6,	  /* open: character or block device, num2 = dev_t */
	HW_M_UNLINKED = 1 << 7,	  /* open: the file has no name any more */
	HW_M_DIR = 1 << 8,	  /* open: a directory */
	HW_M_UNREADABLE = 1 << 9, /* the caller's memory could not be read */
	HW_M_CREATED = 1 << 10,	  /* open: this call made the file (LSM: FMODE_CREATED) */
	HW_M_NOT_REGULAR = 1 << 11, /* open: fifo, socket, anon inode */
	HW_M_UPPER = 1 << 12,	    /* open, mmap: from the overlay's writable layer */
	HW_M_LOWER = 1 << 13,	    /* open, mmap: from the layers below it, as the image has it */
	HW_M_HELD = 1 << 14,	    /* connect, send: nothing is let out until policy knows what it is called */
};

/* What is special about one process image (struct hw_proc.marks). */
enum hw_proc_mark {
	HW_P_MEMFD = 1 << 0,
	HW_P_DELETED = 1 << 1,
	HW_P_UPPER = 1 << 2,	   /* from the overlay's writable layer */
	HW_P_SCRIPT = 1 << 3,	   /* interpreter run for a script: script holds its name */
	HW_P_SETID = 1 << 4,	   /* exe is setuid or setgid */
	HW_P_KTHREAD = 1 << 5,
	HW_P_ARGV_CUT = 1 << 6,
	HW_P_ARGV_UNREADABLE = 1 << 7,
	HW_P_ENV_CUT = 1 << 8,
	HW_P_STR_LOST = 1 << 9,
	HW_P_WRITABLE = 1 << 10,   /* the exe's inode may be written by its user */
};

enum hw_str_kind {
	HW_S_PATH = 1,	   /* the kernel's path, in the mount namespace of the caller */
	HW_S_RAW = 2,	   /* the caller's text, as given */
	HW_S_JOINED = 3,   /* kernel directory + '/' + the caller's text, not normalised */
	HW_S_ARGV = 4,	   /* NUL-separated */
	HW_S_ENV = 5,	   /* NUL-separated names, never values */
	HW_S_ADDR = 6,	   /* struct hw_addr, cut after the bytes in use */
	HW_S_CGROUP = 7,   /* path in the v2 tree */
	HW_S_TEXT = 8,	   /* module name, memfd name, fs type, ... */
	HW_S_CALLS = 9,	   /* __u64 each: what HW_AMBIGUOUS stands for, less the id; calls that ran at once */
	HW_S_DNS = 16,	   /* made in user space: a domain name */
	HW_S_SNI = 17,	   /* made in user space: a TLS server name */
};

enum hw_verdict {
	HW_V_NONE = 0,	  /* unknown: report, user space will answer */
	HW_V_COUNT = 1,	  /* no rule can match: count only */
	HW_V_REPORT = 2,  /* report every time */
	HW_V_BYPROC = 3,  /* depends on the process: look up again under the image's scope */
	HW_V_DENY = 4,
};

/* 80 bytes. Times are CLOCK_BOOTTIME ns. obj, obj2 are dictionary ids, 0 = none. */
struct hw_event {
	__u64 ts;
	__u64 proc;   /* process key: (start_boottime >> 16) << 22 | tgid */
	__u64 cgroup; /* v2 cgroup id */
	__u64 span;   /* tool call, 0 = none; with HW_AMBIGUOUS a set of them: run << 32 | dictionary id */
	__u64 num;    /* by class, see sensor/events.py */
	__u64 num2;
	__u32 obj;
	__u32 obj2;
	__u32 tid;
	__u32 flags;
	__s32 ret;
	__u16 cls;    /* enum hw_class */
	__u16 op;     /* index of the system call in sensor/syscalls.py, 0 = not a system call */
	__u32 labels;
	__u16 marks;  /* enum hw_mark */
	__u16 port;   /* network: the port of the client side */
};

/* 248 bytes: a process image, at exec or when the sensor starts. */
struct hw_proc {
	__u64 ts;
	__u64 proc;
	__u64 parent; /* process key of the parent */
	__u64 cgroup;
	__u64 span;
	__u64 exec_id;
	__u64 cap_effective;
	__u64 cap_permitted;
	__u64 cap_inheritable;
	__u64 exe_ino;
	__u64 exe_ctime; /* unix ns */
	__u64 exe_mtime; /* unix ns */
	__u64 start;	 /* CLOCK_BOOTTIME ns */
	__u32 exe;	 /* dictionary ids */
	__u32 argv;
	__u32 cwd;
	__u32 env;
	__u32 script;
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 vpid;
	__u32 pgid;
	__u32 vpgid;
	__u32 sid;
	__u32 uid;
	__u32 gid;
	__u32 euid;
	__u32 egid;
	__u32 loginuid;
	__u32 tty; /* dev_t of the controlling terminal, 0 = none */
	__u32 ns_pid;
	__u32 ns_mnt;
	__u32 ns_net;
	__u32 ns_user;
	__u32 ns_uts;
	__u32 ns_ipc;
	__u32 ns_cgroup;
	__u32 exe_dev;
	__u32 marks; /* enum hw_proc_mark */
	__u16 cls;   /* HW_EXEC or HW_TASK */
	__u16 op;
	__u32 labels;
	__u32 exe_mode;
	__u32 exe_uid;
	__u32 vsid;
	char comm[16];
};

/* Header of a dictionary record; len bytes of data follow. */
struct hw_string {
	__u64 key;	/* key of the kernel's seen map */
	__u32 id;
	__u32 orig_len; /* bytes before any cut */
	__u32 len;
	__u16 kind;	/* enum hw_str_kind */
	__u16 marks;	/* HW_M_TRUNCATED, HW_M_UNREADABLE */
};

/* Header of a packet record (DNS message, TLS ClientHello); len bytes of payload follow. */
struct hw_packet {
	__u64 ts;
	__u64 cgroup;
	__u64 proc; /* owner of the socket, 0 = unknown */
	__u64 span;
	__u32 obj;  /* the remote end, HW_S_ADDR */
	__u32 len;
	__u32 tid;
	__u16 cls;  /* HW_DNS or HW_TLS */
	__u16 outgoing;
	__u32 labels;
	__u32 pad;
};

/* A socket address as dictionary data: 4 + 16 bytes for IP, 4 + path for Unix. */
struct hw_addr {
	__u16 family;
	__u16 port; /* host order; 0 where the id stands for an address only */
	__u8 addr[108];
};

struct hw_verdict_key {
	__u64 scope; /* cgroup id, or the scope of a process image */
	__u32 obj;
	__u32 action; /* hw_class; bit 8: for writing, bit 9: of the writable layer */
};

struct hw_verdict_value {
	__u32 verdict;
	__u32 generation;
	__u64 count; /* events counted instead of sent, for the verdict or as repeats */
};

#define HW_ACTION_WRITE 0x100
#define HW_ACTION_UPPER 0x200

/* ---- calls (span.h) ----------------------------------------------------------------------- */

#define HW_AMBIGUOUS (1ULL << 63)
#define HW_OF_THREAD (1ULL << 63) /* an actor that is one thread: this and its tid */
#define HW_CALLS_AT_ONCE 64

/* What a process acts for, by tgid: the calls of the server it is of, else the one it was started in. */
struct hw_acting {
	__u64 span;
	__u64 server; /* actor whose calls it serves, 0 = none */
};

/* The calls that an actor serves now. changed counts changes; cached: of which change, and the set. */
struct hw_calls {
	__u64 calls[HW_CALLS_AT_ONCE];
	__u64 cached;
	__u32 changed;
	__u32 pad;
};

/* What the program call_change is asked to do. */
struct hw_call_change {
	__u64 actor;
	__u64 call;
	__u32 begins; /* 1: the call begins, 0: it has ended */
	__u32 pad;
};

/* ---- the tap (tap.h) ---------------------------------------------------------------------- */

enum hw_tap_what {
	HW_T_DATA = 1,	/* bytes of a stream: len of total follow, the rest of total is missing */
	HW_T_BEGAN = 2, /* a process read a tools/call: the kernel made it the call in `call` */
	HW_T_ENDED = 3, /* a process read the stream's end, or its TLS library let go of it */
};

enum hw_tap_kind {
	HW_K_PIPE = 1,	 /* lines of JSON over a pipe or Unix socket; streams of a process belong together */
	HW_K_SOCKET = 2, /* both directions of one socket */
	HW_K_TLS = 3,	 /* both directions of one TLS connection, in plain */
};

/* Header of a tap record. */
struct hw_tap {
	__u64 ts;
	__u64 stream; /* inode of the pipe or socket, address of the TLS connection */
	__u64 proc;
	__u64 cgroup;
	__u64 call; /* DATA: what the process acts for, as hw_event.span; BEGAN: the call */
	__u64 id;   /* BEGAN: hash of the JSON-RPC id, 0 = not seen */
	__u32 tid;
	__u32 total; /* bytes that were moved from here on: what is above len is missing */
	__u32 len;
	__u16 what; /* enum hw_tap_what */
	__u16 kind; /* enum hw_tap_kind */
	__u16 received;
	__u16 family; /* socket: AF_*, 0 = not known */
	__u16 port;   /* of the remote end */
	__u16 local_port;
	__u8 addr[16]; /* of the remote end, IPv4 in the first four */
};

/* A stream of a process, and what user space has said of it. */
struct hw_tap_key {
	__u64 stream;
	__u32 tgid;
	__u32 pad;
};

/* ---- labels (label.h) --------------------------------------------------------------------- */

/* Bits from HW_LABEL_OF_POLICY on have no meaning of their own. */
enum hw_label {
	HW_LABEL_SECRET = 1 << 0,    /* has read what opens doors: a key, a token, a password */
	HW_LABEL_PRIVATE = 1 << 1,   /* has read what is nobody else's business */
	HW_LABEL_UNTRUSTED = 1 << 2, /* has talked to somebody outside, who may have told it anything */
};

/* HW_LABEL: which way it went (flags). */
enum hw_label_way {
	HW_LABEL_TOOK = 0,  /* the process got labels from the object */
	HW_LABEL_GAVE = 1,  /* the object got labels from the process: a file, a stream, a connection */
};

/* What a process carries, by tgid. */
struct hw_labelled {
	__u64 proc;  /* process key; 0: whoever has the number, as user space could not tell */
	__u64 since; /* CLOCK_BOOTTIME ns, of the first label */
	__u32 labels;
	__u32 pad;
};

/* A file, pipe or socket, whatever its name. On overlayfs that of the writable layer. */
struct hw_inode_key {
	__u64 ino;
	__u32 dev;
	__u32 generation;
};

struct hw_inode_labels {
	__u64 since;
	__u32 outside; /* for readers outside of containers: what is inherent, and what those gave */
	__u32 inside;  /* for readers in containers, likewise */
};

/* What the program label_change is asked to do. */
struct hw_label_change {
	__u64 proc; /* as in hw_labelled */
	__u32 tgid;
	__u32 add;
	__u32 drop;
	__u32 pad;
};

#define HW_CARRIED 1
#define HW_GIVEN 2
#define HW_SPREAD 4

#define HW_PATH_BYTES 256
#define HW_PATH_CLASSES 64
#define HW_PATH_AUTOMATA 16
#define HW_TABLE_HOSTS 3 /* the first of them */
#define HW_TABLES 5

/* Automata over paths (sensor/patterns.py), and which of them run from a path's end: one table gives
 * labels, two give policy its rows (label: the row), one of each generation, and two more the numbers
 * of server names, which are read as paths (/api.example). */
struct hw_path_table {
	__u8 class_of[HW_PATH_BYTES];
	__u32 starts[HW_PATH_AUTOMATA];
	__u32 count;
	__u32 reversed; /* bit by automaton */
};

/* Of all ranks met the lowest one's labels count; labels of rank 0 count anyhow. State 0 ends it. */
struct hw_path_state {
	__u16 next[HW_PATH_CLASSES];
	__u32 labels;
	__u32 rank;
};

/* ---- policy (guard.h) --------------------------------------------------------------------- */

enum hw_action {
	HW_A_EXEC = 1,
	HW_A_OPEN_READ = 2,
	HW_A_OPEN_WRITE = 3,
	HW_A_CONNECT = 4,
	HW_A_LISTEN = 5,
	HW_A_PRIVILEGE = 6,
	HW_A_SOCKET = 7, /* to connect to a Unix socket; told as HW_A_CONNECT */
	HW_A_USE_SECRET = 8,
	HW_A_LOAD_PLUGIN = 9,
};

enum hw_privilege {
	HW_PRIVILEGE_PTRACE = 1,
	HW_PRIVILEGE_MOUNT = 2,
	HW_PRIVILEGE_BPF = 3,
	HW_PRIVILEGE_MODULE = 4,
	HW_PRIVILEGE_OWN = 5, /* over the agent itself; no policy is asked */
	HW_PRIVILEGE_SETUID = 6,
	HW_PRIVILEGE_CAPABILITY = 7,
};

/* Which policies hold; of several rows of one object all count. A permit makes a list (policy.py). */
enum hw_holds {
	HW_G_BLOCK = 1 << 0,  /* a forbid, or a challenge, that nobody can answer here, and fails closed */
	HW_G_PERMIT = 1 << 1,
	HW_G_LISTED = 1 << 2, /* there are permits for this action */
	/* The same were all of them enforced, which is told. */
	HW_G_WOULD_BLOCK = 1 << 3,
	HW_G_WOULD_PERMIT = 1 << 4,
	HW_G_WOULD_LIST = 1 << 5,
	HW_G_ASKED = 1 << 6, /* a block, but where who opens or runs it is held through fanotify (opens.py) */
};

/* HW_POLICY: what was done (flags, above the action). */
enum hw_done {
	HW_DONE_TOLD = 0,	/* only observed */
	HW_DONE_DENIED = 1,
	HW_DONE_KILLED = 2,	/* a program that had no chance to run */
	HW_DONE_DROPPED = 3,	/* a packet of an open connection */
};

/* Containers of one kind, as far as policies can tell, are one scope; by generation & 1. */
struct hw_guarded {
	__u32 generation[2];
	__u32 scope[2];
};

/* A container that is held through fanotify: of its opens, and its execs, as which number of a set
 * (hw_settings.policy_asked); 0: of none. */
struct hw_guard_asked {
	__u32 opens;
	__u32 execs;
};

/* Labels of a container as a whole. some: of any process, so far. all: that each is taken to carry.
 * made: files and streams that got some there. */
struct hw_guard_carried {
	__u32 some;
	__u32 all;
	__u32 made;
	__u32 pad;
};

/* What is asked. Numbers are of one generation and stand for all objects that policies tell apart. */
struct hw_guard_key {
	__u32 generation;
	__u32 scope;
	__u32 facts; /* labels that policies read; HW_FACT_UPPER */
	__u8 action; /* enum hw_action */
	__u8 tool;   /* whose call it acts for, where policies ask for that; 0 = none, or not known */
	__u16 port;  /* a port that policies name, else 0; enum hw_privilege */
	__u32 row;   /* path or network, HW_ROW_* */
	__u32 name;  /* host names of the address, 0 = none known */
};

/* enum hw_holds: now, and of those that hold when the agent is gone. */
struct hw_guard_value {
	__u16 now;
	__u16 orphaned;
	__u32 allowed; /* how often; of paths in HW_ROW_ANY, of secrets in their kind's */
};

#define HW_FACT_UPPER 0x80000000
#define HW_FACT_NEW 0x80000000 /* of a connection: its image's baseline does not have it */
#define HW_MAPPED 1 /* HW_POLICY of an exec, num: it was mapped, as ld.so does */
#define HW_M_NEW HW_M_UPPER /* HW_POLICY of a connection: HW_FACT_NEW */
#define HW_OPENED 1 /* HW_POLICY of an open, num: it was opened; 0: renamed, linked, changed or received */
#define HW_UNREAD 1 /* HW_POLICY of a connection, num: its TLS hello cannot be read */
#define HW_ROW_ANY 0	      /* what holds whatever the object */
#define HW_ROW_UNKNOWN 1      /* the object cannot be told, or its answer is not there */
#define HW_ROW_SAID 2	      /* a server name that a TLS client asks for: name is its number, 0 = unread */
#define HW_ROW_SECRET 0x80000000 /* and the rank of its place among those of secrets (agent/secrets/labels.py) */
#define HW_NAME_ALONE 4294967295u /* name: what permits say of the address, whatever it is called */
#define HW_GUARD_ROWS 16 /* twice what there are automata of, as an object may have two names */

struct hw_guard_port {
	__u32 generation;
	__u32 port;
};

struct hw_guard_name {
	__u32 generation;
	__u32 scope;
	__u8 addr[16]; /* IPv4 mapped */
};

/* Whose baseline counts for a scope. */
struct hw_guard_scope {
	__u32 generation;
	__u32 scope;
};

/* An end that a baseline has. Without an address: the port of any that has no name. Without a port,
 * too: any end. */
struct hw_guard_seen {
	__u32 profile;
	__u32 port;
	__u8 addr[16]; /* IPv4 mapped */
};

/* Of a longest-prefix map. */
struct hw_guard_net {
	__u32 prefix; /* bits, those of generation included */
	__u8 generation[4]; /* most significant first */
	__u8 addr[16]; /* IPv4 mapped */
};

struct hw_loss_key {
	__u64 cgroup;
	__u32 cls;
	__u32 stage; /* enum hw_stage */
};

enum hw_stage {
	HW_L_VITAL = 1,
	HW_L_BULK = 2,
	HW_L_STRING = 3,
	HW_L_PROC = 4,
	HW_L_PACKET = 5,
	HW_L_SCRATCH = 6,
	HW_L_GOVERNED = 7, /* not lost but counted: new strings of bulk events at the governor's level 2 */
	HW_L_REPEATED = 8, /* not lost but counted: like an event that was sent less than a second before */
	HW_L_SPAN = 9,	   /* a process that does not know which call it acts for: too many do */
	HW_L_TAP = 10,	   /* bytes of a stream that is listened to: a piece is missing in it */
	HW_L_LABEL = 11,   /* a label that something should have and has not: too many do */
	HW_L_GUARD = 12,   /* a process that policy should see as the container's: too many are */
};

/* Fixed before load (.rodata.fixed): the verifier drops the code that is not needed. */
struct hw_fixed {
	__u64 hash_key[2]; /* random: a workload cannot make two strings share an id */
	__u32 lsm_tier;
	__u32 own_tgid; /* the sensor itself: its own reads and queries are not news */
	__u32 run;	/* random, 31 bits: dictionary ids of another run of the sensor are others */
	__u32 pad;
};

/* Changed while running (.data.settings), through the map's memory. */
struct hw_settings {
	__u32 record_mode;     /* 1: everything is reported */
	__u32 governed;	       /* 1: repeats within a second are counted; 2: so are new strings of bulk events */
	__u32 generation;      /* verdicts of another generation are void */
	__u32 epoch;	       /* dictionary entries of another epoch are void */
	__u32 next_id;	       /* next dictionary id: even; user space makes the odd ones */
	__u32 path_generation; /* bumped when a directory may have moved: cached paths are void */
	__u32 calls;	       /* 1: processes may act for calls; 0: nobody has told of one yet */
	__u32 tap;	       /* 1: streams are listened to; 2: all of TLS, whatever it says (tests) */
	__u32 labels;	       /* HW_CARRIED: something carries a label; HW_GIVEN: a path that gives one is known;
			       * HW_SPREAD: of some container all processes are taken to carry some */
	__u32 label_paths;     /* 1: paths give labels; 0: no table yet */
	__u32 untrusted;       /* 1: who talks to an address outside is labelled */
	__u32 label_host;      /* 1: processes outside of containers carry labels, too */
	__u32 cut;	       /* 1: some cgroup is cut off from the network */
	__u32 host_level;      /* of pid namespaces: processes at it are outside of containers */
	__u32 host_mnt;	       /* inode of the host's mount namespace */
	__u32 policy;	       /* generation of what policy says; 0: nothing */
	__u32 policy_crowded;  /* 1: there was no room for a process that policy should see as a container's */
	__u32 policy_facts[2]; /* by generation & 1: of hw_guard_key.facts, what is told apart */
	__u32 policy_changes;  /* counts changes of who is guarded */
	__u32 policy_alive;    /* 2^30 ns of CLOCK_BOOTTIME: until then the agent is taken to be there */
	__u32 policy_held;     /* the same: until then connections may be held */
	__u32 policy_tools;    /* 1: policies ask for which tool it is */
	__u32 policy_hosts[2]; /* by generation & 1. 1: policies speak of names of hosts */
	__u32 policy_secrets[2]; /* the same, of kinds of secrets */
	__u32 policy_new[2]; /* the same, of what an image's baseline does not have */
	__u32 policy_asked[2]; /* the same: number of what fanotify is to hold of it (opens.py); 0: nothing */
	__u32 policy_keepers[2]; /* who answers there, and who looks after that one; 0: one of them has ended */
};

#endif
