/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Cgroups that are cut off from every network, with all that is in them. */
#ifndef HULLWATCH_CUT_H
#define HULLWATCH_CUT_H

#include "common.h"

#define CUT_DEPTH 12 /* levels of cgroups below the root that are looked at */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* cgroup */
	__type(value, u8);
} cut_off SEC(".maps");

/* Whether the socket of a packet belongs to one of them. */
HOT bool packet_is_cut(struct __sk_buff *skb)
{
	int level;

	if (!settings.cut)
		return false;
	for (level = 1; level <= CUT_DEPTH; level++) {
		u64 cgroup = bpf_skb_ancestor_cgroup_id(skb, level);

		if (!cgroup)
			return false;
		if (bpf_map_lookup_elem(&cut_off, &cgroup))
			return true;
	}
	return false;
}

/* Whether who runs now does. */
HOT bool current_is_cut(void)
{
	int level;

	if (!settings.cut)
		return false;
	for (level = 1; level <= CUT_DEPTH; level++) {
		u64 cgroup = bpf_get_current_ancestor_cgroup_id(level);

		if (!cgroup)
			return false;
		if (bpf_map_lookup_elem(&cut_off, &cgroup))
			return true;
	}
	return false;
}

#endif
