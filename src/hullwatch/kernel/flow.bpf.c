/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Network, as it happens: flows with their bytes when they close, and the packets that carry names.
 * DNS messages and TLS ClientHellos are copied out for user space to parse (sensor/dns.py, tls.py).
 */
#include "socket.h"
#include "cut.h"
#include "hello.h"

#define PACKET_ROOM 4096

enum { TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_CLOSE = 7, TCP_LISTEN = 10 };

HOT void flow_end(struct sock *sk, u64 cookie, struct owner *o, u32 type, s32 state)
{
	bool incoming = o->incoming;
	struct who w = { .proc = o->proc, .cgroup = o->cgroup, .exec_id = o->exec_id,
			 .span = o->span, .tid = o->tid, .labels = o->labels };
	struct hw_event e;
	int how;

	w.labels |= current_labels(o->proc); /* it may have read since */
	event_fill(&e, &w, HW_FLOW, 0);
	e.num = o->bytes_out;
	e.num2 = o->bytes_in;
	e.ret = state;
	e.flags = sock_flags(sk, type);
	bpf_map_delete_elem(&owners, &cookie);
	e.obj = sock_end((u64)sk, WITH_PORT | (incoming ? 0 : REMOTE), HW_FLOW, w.cgroup);
	how = asked(&w, &e, HW_FLOW);
	if (!how)
		return;
	e.port = incoming ? bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport))
			  : local_port(sk);
	e.obj2 = sock_end((u64)sk, incoming ? REMOTE : 0, HW_FLOW, w.cgroup);
	report(&e, HAS_OBJECT | how);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int old, int new)
{
	struct tcp_sock *tcp = (void *)sk;
	struct owner *o;
	u64 cookie;

	if (new == TCP_ESTABLISHED)
		bpf_get_socket_cookie(sk); /* gives an accepted socket its cookie, before accept returns it */
	if (new != TCP_CLOSE || old == TCP_LISTEN || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	cookie = cookie_of(sk);
	if (!cookie)
		return 0;
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (!o)
		return 0;
	o->bytes_out = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	/* The peer's FIN counts as a byte; tcp_fin sets SOCK_DONE (bit 1) right after it was counted. */
	o->bytes_in = BPF_CORE_READ(tcp, bytes_received) - (BPF_CORE_READ(sk, __sk_common.skc_flags) >> 1 & 1);
	flow_end((void *)address_of(ctx, 0), cookie, o, SOCK_STREAM, old);
	return 0;
}

/* ---- cgroup hooks ------------------------------------------------------------------------- */

/* Every inet socket gets a cookie and an owner when it is made, in the context of its maker. */
SEC("cgroup/sock_create")
int sock_made(struct bpf_sock *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);

	if (ctx->protocol == IPPROTO_UDP)
		own_socket(cookie, 0, current_span(), current_labels(key_of((void *)bpf_get_current_task())));
	return 1;
}

SEC("cgroup/sock_release")
int sock_gone(struct bpf_sock *ctx)
{
	struct hw_event e;
	struct owner *o;
	struct who w = {};
	u64 cookie;
	int how;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (!o)
		return 1;
	w.proc = o->proc;
	w.cgroup = o->cgroup;
	w.exec_id = o->exec_id;
	w.span = o->span;
	w.tid = o->tid;
	w.labels = o->labels | current_labels(o->proc);
	event_fill(&e, &w, HW_FLOW, 0);
	e.num = o->bytes_out;
	e.num2 = o->bytes_in;
	bpf_map_delete_elem(&owners, &cookie);
	if (!e.num && !e.num2)
		return 1;
	e.flags = ctx->family << 16 | SOCK_DGRAM << 8 | IPPROTO_UDP;
	/* An unconnected socket has no one remote end; its sends and the bytes in all are known. */
	if (ctx->dst_port) {
		u32 ip[4] = {}, v4 = ctx->dst_ip4, v6 = ctx->dst_ip6[0];

		FRESH(v4); /* two loads, not one through a chosen pointer into the context */
		FRESH(v6);
		ip[0] = v4;
		if (ctx->family != AF_INET) {
			ip[0] = v6;
			ip[1] = ctx->dst_ip6[1];
			ip[2] = ctx->dst_ip6[2];
			ip[3] = ctx->dst_ip6[3];
		}
		e.obj = plain_end((u8 *)ip, ctx->family != AF_INET, bpf_ntohs(ctx->dst_port), HW_FLOW, w.cgroup);
	}
	how = asked(&w, &e, HW_FLOW);
	if (how)
		report(&e, how);
	return 1;
}

enum { IPV6_HOPS = 0, IPV6_ROUTING = 43, IPV6_FRAGMENT = 44, IPV6_OPTIONS = 60, MAX_EXTENSIONS = 6 };

/* Where the payload of a TCP or UDP packet starts. A socket can have its packets bear four extension
 * headers of IPv6 at most (RFC 3542), and the kernel one of a fragment. */
HOT bool find_layers(struct __sk_buff *skb, struct layers *l)
{
	u8 head[40];
	u32 at;
	int i;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return false;
	if (head[0] >> 4 == 4) {
		at = (head[0] & 15) * 4;
		l->proto = head[9];
		l->v6 = 0;
		__builtin_memcpy(l->src, head + 12, 4);
		__builtin_memcpy(l->dst, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return false;
		at = 40;
		l->proto = head[6];
		l->v6 = 1;
		__builtin_memcpy(l->src, head + 8, 16);
		__builtin_memcpy(l->dst, head + 24, 16);
		for (i = 0; i < MAX_EXTENSIONS; i++) {
			if (l->proto != IPV6_HOPS && l->proto != IPV6_ROUTING && l->proto != IPV6_FRAGMENT &&
			    l->proto != IPV6_OPTIONS)
				break;
			if (bpf_skb_load_bytes(skb, at, head, 8))
				return false;
			if (l->proto == IPV6_FRAGMENT && (head[2] || head[3] & 0xf8))
				return false; /* not the first: no ports */
			at += l->proto == IPV6_FRAGMENT ? 8 : 8 * (head[1] + 1);
			l->proto = head[0];
		}
	}
	if (l->proto != IPPROTO_TCP && l->proto != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, at, head, 8))
		return false;
	l->at = at;
	l->sport = bpf_ntohs(*(u16 *)head);
	l->dport = bpf_ntohs(*(u16 *)(head + 2));
	if (l->proto == IPPROTO_UDP) {
		l->payload = at + 8;
	} else {
		if (bpf_skb_load_bytes(skb, at + 12, head, 1))
			return false;
		l->payload = at + (head[0] >> 4) * 4;
	}
	if (skb->len <= l->payload)
		return false;
	l->len = skb->len - l->payload;
	return true;
}

HOT void copy_packet(struct __sk_buff *skb, const struct layers *l, const struct owner *o, u64 cgroup,
		     u16 cls, u16 outgoing)
{
	u32 len = l->len, end = plain_end(outgoing ? l->dst : l->src, l->v6,
					  outgoing ? l->dport : l->sport, cls, cgroup);
	struct scratch *s = scratch_get(cls, cgroup);
	struct hw_packet *p;

	if (!s)
		return;
	p = (void *)s->data;
	__builtin_memset(p, 0, sizeof(*p));
	p->ts = bpf_ktime_get_boot_ns();
	p->cgroup = cgroup;
	p->obj = end;
	p->cls = cls;
	p->outgoing = outgoing;
	if (o) {
		p->proc = o->proc;
		p->span = o->span;
		p->tid = o->tid;
		p->labels = o->labels | current_labels(o->proc);
	}
	if (len > PACKET_ROOM)
		len = PACKET_ROOM;
	/* never 0 here; written so that every verifier sees 1 .. PACKET_ROOM */
	len = ((len - 1) & (PACKET_ROOM - 1)) + 1;
	p->len = len;
	if (bpf_skb_load_bytes(skb, l->payload, p + 1, len) == 0 &&
	    bpf_ringbuf_output(&packets, p, sizeof(*p) + len, 0))
		lost(HW_L_PACKET, cls, cgroup);
	scratch_put(s);
}

/* done: enum hw_done. said: id of a server name; num: HW_UNREAD, or 0. */
struct told { u32 done, said, num, pad; };

static __noinline int tell_packet(const struct owner *o, const struct guard_end *end, u64 cgroup,
				  const struct told *t)
{
	struct who w = { .cgroup = cgroup };
	struct scratch *s;
	struct hw_event *e;
	u32 obj;

	if (o) {
		w = (struct who){ .proc = o->proc, .cgroup = o->cgroup, .exec_id = o->exec_id, .span = o->span,
				  .tid = o->tid, .labels = o->labels | current_labels(o->proc) };
	}
	obj = plain_end(end->addr, true, end->port, HW_POLICY, w.cgroup);
	s = scratch_get(HW_POLICY, w.cgroup); /* the stack is deep already */
	if (!s)
		return 0;
	e = (void *)s->data;
	event_fill(e, &w, HW_POLICY, 0);
	e->flags = HW_A_CONNECT | t->done << 16;
	e->ret = t->done == HW_DONE_TOLD ? 0 : -EPERM;
	e->num = t->num;
	e->num2 = settings.policy;
	e->obj = obj;
	e->obj2 = t->said;
	w.same = e->flags;
	if (!repeated(&w, obj, t->said, HW_POLICY, true))
		send_first(e);
	scratch_put(s);
	return 0;
}

HOT void tell_dropped(const struct owner *o, const struct guard_end *end)
{
	struct told t = { .done = HW_DONE_DROPPED };

	tell_packet(o, end, o->cgroup, &t);
}

/*
 * From before the agent, or forgotten among many: nobody knows who has opened it, or whether it was
 * opened here at all. So only what labels alone forbid is stopped.
 */
static __noinline int unowned_is_stopped(const struct guard_end *end, u32 scope, u64 container)
{
	u32 labels = carried_by_some(container);
	struct owner nobody = { .cgroup = container, .labels = labels };

	if (!labels || guard_packet(end, scope, 0, 0) || !guard_packet(end, scope, labels, 0))
		return false;
	tell_dropped(&nobody, end);
	return true;
}

struct asker { u32 scope, labels; };

/*
 * The server name that a TLS client asks for. It is asked about when it is there, and again when
 * another set is in force, or whoever has the connection has read something since. True: the packet
 * is to be dropped.
 */
static __noinline int hello_stops(struct __sk_buff *skb, const struct layers *l, const struct guard_end *end,
				  const struct asker *by, const struct owner *o)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp;
	struct told t = {};
	struct hello *h;
	struct guard g;
	bool new;
	int says;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return false;
	h = bpf_sk_storage_get(&hellos, sk, 0, 0);
	new = !h;
	if (!h) {
		tcp = bpf_tcp_sock(sk);
		if (!tcp || tcp->bytes_acked > 1) /* its SYN is one; it has begun before policy was asked */
			return false;
		h = bpf_sk_storage_get(&hellos, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	}
	if (h && h->how == HELLO_WAITS && hello_take(skb, l, h, new))
		return true;
	/* Nobody knows who opened it: then it may be a server's. */
	if (h && (h->how <= HELLO_NONE || (h->how == HELLO_OTHER && !o)))
		return false;
	guard_fill(&g, settings.policy, by->scope, HW_A_CONNECT, by->labels);
	if (o && settings.policy_tools)
		g.key.tool = tool_of(o->span);
	guard_baseline(&g, end);
	if (h && h->passed == g.key.generation && h->facts == g.key.facts && h->tool == g.key.tool)
		return false;
	says = hello_says(&g, end, h ? hello_numbered(h, g.key.generation, bpf_skb_cgroup_id(skb)) : 0);
	if (says != STOPPED && h) {
		h->passed = g.key.generation;
		h->facts = g.key.facts;
		h->tool = g.key.tool;
	}
	if (says == PASSES)
		return false;
	t.done = says == STOPPED ? HW_DONE_DROPPED : HW_DONE_TOLD;
	if (h && h->how == HELLO_NAMED)
		t.said = hello_id(h, bpf_skb_cgroup_id(skb));
	else
		t.num = HW_UNREAD;
	tell_packet(o, end, bpf_skb_cgroup_id(skb), &t);
	return says == STOPPED;
}

/* Of a connection that was opened here, and is in nobody's hands but its owner's. */
HOT bool is_stopped(struct __sk_buff *skb, const struct layers *l)
{
	u32 generation = settings.policy, scope;
	struct guard_end end = {};
	u64 cookie, container;
	struct asker by = {};
	struct owner *o;

	if (!generation)
		return false;
	container = container_of_packet(skb, generation);
	scope = container ? scope_in(container, generation) : 0;
	if (!scope)
		return false;
	cookie = bpf_get_socket_cookie(skb);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (o && o->incoming)
		return false;
	if (l->v6)
		__builtin_memcpy(end.addr, l->dst, 16);
	else
		end_v4(&end, *(u32 *)l->dst, 0);
	end.port = l->dport;
	by.scope = scope;
	if (o) {
		by.labels = o->labels | o->held | current_labels(o->proc) | carried_by_all(container);
		if (guard_packet(&end, scope, by.labels, o->span)) {
			tell_dropped(o, &end);
			return true;
		}
	} else if (settings.labels & HW_CARRIED && unowned_is_stopped(&end, scope, container)) {
		return true;
	}
	return l->proto == IPPROTO_TCP && settings.policy_hosts[generation & 1] && hello_stops(skb, l, &end, &by, o);
}

/* Where a packet goes, whether it carries anything or not. */
HOT bool packet_end(struct __sk_buff *skb, struct guard_end *end)
{
	u8 head[40];
	u32 at;
	u16 port;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return false;
	if (head[0] >> 4 == 4) {
		at = (head[0] & 15) * 4;
		end_v4(end, *(u32 *)(head + 16), 0);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return false;
		at = 40;
		__builtin_memcpy(end->addr, head + 24, 16);
	}
	if (bpf_skb_load_bytes(skb, at + 2, &port, 2))
		return false;
	end->port = bpf_ntohs(port);
	return true;
}

/* Of a connection that waits for its name, and has none yet. */
static __noinline int is_held(struct __sk_buff *skb)
{
	struct guard_held_key key = {};
	u64 now = bpf_ktime_get_boot_ns(), container;
	u32 generation = settings.policy;
	struct guard_held *held;

	if (!generation || settings.policy_held < now >> 30 || !packet_end(skb, &key.end))
		return false;
	container = container_of_packet(skb, generation);
	key.scope = container ? scope_in(container, generation) : 0;
	if (!key.scope)
		return false;
	held = bpf_map_lookup_elem(&guard_holds, &key);
	if (!held || !guard_packet(&key.end, key.scope, held->by.labels, held->by.span))
		return false;
	if (held->since + ANSWER_NS / 2 < now) /* it has been looked at: this is what policy says */
		tell_dropped(&held->by, &key.end);
	return true;
}

HOT int packet(struct __sk_buff *skb, u16 outgoing)
{
	struct layers l = {}; /* an address of IPv4 is told from others by all 16 bytes */
	struct owner *o;
	u64 cookie, cgroup;
	u8 head[6];

	if (packet_is_cut(skb))
		return 0;
	if (outgoing && settings.policy_held && is_held(skb))
		return 0;
	if (!find_layers(skb, &l))
		return 1;
	if (outgoing && is_stopped(skb, &l))
		return 0;
	if (l.proto == IPPROTO_TCP) {
		/* Streams are counted by the kernel: only the first bytes of a client matter. */
		if (!outgoing || l.len < 43 || bpf_skb_load_bytes(skb, l.payload, head, 6))
			return 1;
		if (head[0] != 22 || head[1] != 3 || head[5] != 1)
			return 1;
		cookie = bpf_get_socket_cookie(skb);
		o = bpf_map_lookup_elem(&owners, &cookie);
		if (o && o->hello)
			return 1;
		if (o)
			o->hello = 1;
		copy_packet(skb, &l, o, o ? o->cgroup : bpf_skb_cgroup_id(skb), HW_TLS, 1);
		return 1;
	}
	cookie = bpf_get_socket_cookie(skb);
	o = bpf_map_lookup_elem(&owners, &cookie);
	if (o)
		__sync_fetch_and_add(outgoing ? &o->bytes_out : &o->bytes_in, l.len);
	if (l.sport == 53 && is_posed(skb, l.src, outgoing) && !outgoing)
		return 1;
	if ((outgoing ? l.dport : l.sport) != 53 || l.len < 12)
		return 1;
	cgroup = o ? o->cgroup : bpf_skb_cgroup_id(skb);
	if (settings.policy && !outgoing)
		guard_answer(cgroup);
	copy_packet(skb, &l, o, cgroup, HW_DNS, outgoing);
	return 1;
}

SEC("cgroup_skb/egress")
int packet_out(struct __sk_buff *skb)
{
	return packet(skb, 1);
}

SEC("cgroup_skb/ingress")
int packet_in(struct __sk_buff *skb)
{
	return packet(skb, 0);
}
