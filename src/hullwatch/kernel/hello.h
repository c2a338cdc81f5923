/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The server name that a TLS client asks for (RFC 8446, 4.1.2; RFC 6066, 3), and what policy says of
 * it before it leaves. The hello is read byte by byte, where the connection has come to in it being
 * kept with its socket: how it is divided into segments makes no difference. The workload chooses
 * the name, so it is one more question, whose answer can only forbid.
 */
#ifndef HULLWATCH_HELLO_H
#define HULLWATCH_HELLO_H

#include "guard.h"

/* Where the parts of a TCP or UDP packet are; at: of its header. */
struct layers { u8 src[16], dst[16]; u32 at, payload, len; u16 sport, dport; u8 proto, v6; } __attribute__((aligned(8)));

#define HELLO_NAME 256

enum hello_how {
	HELLO_WAITS,  /* there is more to come */
	HELLO_NONE,   /* no TLS, or no name in it */
	HELLO_NAMED,
	HELLO_OTHER,  /* it begins as TLS does, and with something else than a hello */
	HELLO_UNREAD, /* it is divided or filled in a way that is not read here */
};

/* Numbers of the hello, in their order. */
enum hello_part { RECORD, RECORD_LEN, MESSAGE, SESSION, CIPHERS, COMPRESSION, EXTENSIONS, EXTENSION, LIST, NAME_LEN, NAME };

struct hello {
	u32 next;      /* sequence number of the first byte that has not been seen */
	u32 how;       /* enum hello_how */
	u32 part, got; /* what comes next, and how many bytes of it were there */
	u32 value;     /* what these come to */
	u32 skip;      /* bytes before it that mean nothing */
	u32 left;      /* bytes of the record, then of the message, after what was read */
	u32 len;       /* of the name */
	u32 from, to;  /* in the packet in hand: what is still to be read */
	/* The name's number in a generation, and as whose it was last let out: facts and tool. */
	u32 numbered, number, passed, facts, tool;
	u8 name[HELLO_NAME];
};
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hello);
} hellos SEC(".maps");

HOT u32 hello_width(u32 part)
{
	return part == RECORD || part == NAME_LEN ? 3 : part == MESSAGE || part == EXTENSION ? 4
	       : part == SESSION || part == COMPRESSION || part == NAME ? 1 : 2;
}

/* So many bytes of what is left are `part`'s; true: there are not so many. */
HOT bool hello_over(struct hello *h, u32 bytes)
{
	if (bytes > h->left)
		return true;
	h->left -= bytes;
	h->skip = bytes;
	return false;
}

/* A number has been read. Returns enum hello_how. */
HOT u32 hello_number(struct hello *h)
{
	u32 value = h->value, part = h->part, width = hello_width(part);

	h->part++;
	if (part == RECORD) /* type, version */
		return value >> 8 == 0x1603 ? HELLO_WAITS
		       : value >> 16 >= 20 && value >> 16 <= 23 && (value >> 8 & 0xff) == 3 ? HELLO_OTHER : HELLO_NONE;
	if (part == RECORD_LEN) {
		h->left = value;
		return HELLO_WAITS;
	}
	if (h->left < width)
		return HELLO_UNREAD;
	h->left -= width;
	switch (part) {
	case MESSAGE: /* type, length: the hello is to be in one record */
		if (value >> 24 != 1)
			return HELLO_OTHER;
		if ((value & 0xffffff) > h->left)
			return HELLO_UNREAD;
		h->left = value & 0xffffff;
		return hello_over(h, 2 + 32) ? HELLO_UNREAD : HELLO_WAITS; /* version, random */
	case SESSION:
	case CIPHERS:
		return hello_over(h, value) ? HELLO_UNREAD : HELLO_WAITS;
	case COMPRESSION:
		return hello_over(h, value) ? HELLO_UNREAD : h->left ? HELLO_WAITS : HELLO_NONE;
	case EXTENSIONS:
		return value != h->left ? HELLO_UNREAD : value ? HELLO_WAITS : HELLO_NONE;
	case EXTENSION: /* type, length */
		h->len = value & 0xffff;
		if (!(value >> 16)) /* server_name */
			return h->len > h->left ? HELLO_UNREAD : HELLO_WAITS;
		if (hello_over(h, value & 0xffff))
			return HELLO_UNREAD;
		h->part = EXTENSION;
		return h->left ? HELLO_WAITS : HELLO_NONE;
	case LIST: /* of one name */
		h->len -= 2 + 3;
		return value != h->len + 3 ? HELLO_UNREAD : HELLO_WAITS;
	case NAME_LEN: /* type, length */
		return !value || value >= HELLO_NAME || value != h->len ? HELLO_UNREAD : HELLO_WAITS;
	}
	return HELLO_UNREAD;
}

struct hello_read { struct __sk_buff *skb; struct hello *h; };

/* What is read lies with the socket and not on the stack, for the reason in label.h. */
static long hello_step(u32 i, struct hello_read *r)
{
	struct hello *h = r->h;
	u32 at;
	u8 byte;

	if (h->skip) {
		at = h->to - h->from;
		at = h->skip < at ? h->skip : at;
		h->from += at;
		h->skip -= at;
	}
	if (h->from >= h->to)
		return 1;
	if (bpf_skb_load_bytes(r->skb, h->from, &byte, 1)) {
		h->how = HELLO_UNREAD;
		return 1;
	}
	h->from++;
	if (h->part == NAME) {
		at = h->got++;
		FRESH(at);
		h->name[at & (HELLO_NAME - 1)] = byte >= 'A' && byte <= 'Z' ? byte + 32 : byte;
		if (h->got == h->len)
			h->how = HELLO_NAMED;
		return h->got == h->len;
	}
	h->value = h->value << 8 | byte;
	if (++h->got < hello_width(h->part))
		return 0;
	h->how = hello_number(h);
	h->got = h->value = 0;
	return h->how != HELLO_WAITS;
}

enum { TCP_SYN = 2, TCP_URG = 32 };

/*
 * Reads on in what a packet brings. True: it comes before its turn, and is to be sent again. What
 * was sent urgently the other side may leave out of the stream.
 */
HOT bool hello_take(struct __sk_buff *skb, const struct layers *l, struct hello *h, bool new)
{
	struct hello_read r = { .skb = skb, .h = h };
	struct bpf_tcp_sock *tcp;
	u32 seq, ahead, una, len = l->len;
	u8 flags;

	if (!skb->sk)
		return false;
	tcp = bpf_tcp_sock(skb->sk);
	if (!tcp || bpf_skb_load_bytes(skb, l->at + 4, &seq, 4) || bpf_skb_load_bytes(skb, l->at + 13, &flags, 1))
		return false;
	una = tcp->snd_una;
	seq = bpf_ntohl(seq) + (flags & TCP_SYN ? 1 : 0); /* data of TCP Fast Open comes after the SYN */
	if (new)
		h->next = flags & TCP_SYN ? seq : una;
	ahead = seq - h->next;
	if ((s32)ahead > 0) {
		if ((s32)(una - h->next) <= 0)
			return true;
		h->how = HELLO_NONE; /* what lacks has arrived: it left before policy was asked */
		return false;
	}
	ahead = -ahead; /* of it, what has been seen */
	if (ahead >= len)
		return false;
	if (flags & TCP_URG) {
		h->how = HELLO_UNREAD;
		return false;
	}
	h->next = seq + len;
	h->from = l->payload + ahead;
	h->to = l->payload + len;
	bpf_loop(1 << 16, hello_step, &r, 0);
	return false;
}

#define HELLO_AT 1024 /* in the scratch */

/* Number of the name in a generation; 0: it cannot be told. */
static __noinline u32 hello_numbered(struct hello *h, u32 generation, u64 cgroup)
{
	struct scratch *s;
	u32 len;

	if (h->how != HELLO_NAMED)
		return 0;
	if (h->numbered == generation)
		return h->number;
	s = scratch_get(HW_POLICY, cgroup);
	if (!s)
		return 0;
	len = h->len;
	s->data[HELLO_AT] = '/';
	__builtin_memcpy(&s->data[HELLO_AT + 1], h->name, HELLO_NAME);
	if (len && h->name[(len - 1) & (HELLO_NAME - 1)] == '.')
		len--;
	path_match(s, HELLO_AT, 1 + len, HW_TABLE_HOSTS + (generation & 1));
	h->number = ((struct path_match *)&s->data[PATH_MATCH])->found[0];
	h->numbered = generation;
	scratch_put(s);
	return h->number;
}

/* Dictionary id of the name. */
static __noinline u32 hello_id(const struct hello *h, u64 cgroup)
{
	struct scratch *s = scratch_get(HW_POLICY, cgroup);
	u32 len = h->len & (HELLO_NAME - 1), id;

	if (!s)
		return 0;
	__builtin_memcpy(&s->data[64], h->name, HELLO_NAME);
	id = intern_at(s, 64, len, HW_S_SNI, len);
	scratch_put(s);
	return id;
}

/* Answers for the name with this number, asked for at this address: the address counts by what is
 * permitted of it alone, whatever it is called. */
__noinline int hello_says(struct guard *g, const struct guard_end *end, u32 number)
{
	u32 row;

	if (!g || !end)
		return PASSES;
	row = guard_place(g, end);
	g->key.name = HW_NAME_ALONE;
	guard_look(g, row);
	g->key.name = number;
	guard_look(g, HW_ROW_SAID);
	return guard_says(g);
}

#endif
