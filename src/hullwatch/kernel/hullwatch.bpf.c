/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One object, one file per telemetry family: they share the maps of common.h and strings.h. */
#include "process.bpf.c"
#include "file.bpf.c"
#include "network.bpf.c"
#include "flow.bpf.c"
#include "cut.bpf.c"
#include "guard.bpf.c"
#include "label.bpf.c"
#include "sensitive.bpf.c"
#include "iouring.bpf.c"
#include "cgroup.bpf.c"
#include "tap.bpf.c"
#include "tls.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
