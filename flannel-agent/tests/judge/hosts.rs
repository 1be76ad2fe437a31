//! Rules as programs set them that many hosts have: all of these hosts are to have a fast path.

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::bed::{assert_sound, assert_unsound, feed, in_namespace, nft};

/// Docker 28, with a published port and a second network.
const DOCKER: &str = "
*raw
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
";

/// kube-proxy with iptables: a service of two endpoints, with affinity, and a load balancer.
const KUBE_PROXY: &str = "
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -m comment --comment \"service portals\" -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A ! -s 10.5.0.0/16 -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -m recent --name KUBE-SEP-A --rcheck --seconds 10800 --reap -j KUBE-SEP-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-B
-A KUBE-SEP-A -p tcp -m recent --name KUBE-SEP-A --set -j DNAT --to-destination 10.5.1.2:80
-A KUBE-SEP-B -p tcp -j DNAT --to-destination 10.5.2.2:80
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate \
 RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID INVALID_DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp --dport 80 -j REJECT
COMMIT
";

/// kube-proxy with nftables: the same.
const KUBE_PROXY_NFT: &str = "
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; elements = { 10.96.0.10 }; }
  set nodeport-ips { type ipv4_addr; elements = { 192.168.7.11 }; }
  set affinity-a { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 3h; }
  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict;
    elements = { 10.96.0.10 . tcp . 80 : goto service-A };
  }
  map no-endpoint-services {
    type ipv4_addr . inet_proto . inet_service : verdict;
    elements = { 10.96.0.11 . tcp . 80 : goto reject-chain, 10.96.0.12 . tcp . 80 : drop };
  }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain filter-prerouting {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }
  chain filter-input {
    type filter hook input priority -110;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain nodeport-endpoints-check { ip daddr @nodeport-ips drop; }
  chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }
  chain cluster-ips-check { ip daddr @cluster-ips reject; }
  chain reject-chain { reject; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain service-A {
    ip saddr != 10.5.0.0/16 jump mark-for-masquerade
    ip saddr @affinity-a goto endpoint-A
    numgen random mod 2 vmap { 0 : goto endpoint-A, 1 : goto endpoint-B }
  }
  chain endpoint-A {
    ip saddr 10.5.1.2 jump mark-for-masquerade
    update @affinity-a { ip saddr }
    meta l4proto tcp dnat to 10.5.1.2:80
  }
  chain endpoint-B { meta l4proto tcp dnat to 10.5.2.2:80; }
}
";

/// firewalld 2, with denied packets logged.
const FIREWALLD: &str = "
table inet firewalld {
  chain mangle_PREROUTING { type filter hook prerouting priority -140; jump mangle_PRE_ZONES; }
  chain mangle_PRE_ZONES { return; }
  chain filter_PREROUTING {
    type filter hook prerouting priority 10;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
  chain filter_INPUT {
    type filter hook input priority 10;
    ct state { established, related } accept
    ct state invalid drop
    icmp type echo-request limit rate 10/second accept
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority 10;
    ct state { established, related } accept
    ct status dnat accept
    iifname \"lo\" accept
    ct state invalid log prefix \"STATE_INVALID_DROP: \"
    ct state invalid drop
    ip6 daddr { ::/96, fe80::/10 } reject with icmpv6 addr-unreachable
    jump filter_FORWARD_ZONES
    log prefix \"FINAL_REJECT: \"
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_ZONES {
    iifname \"eth0\" goto filter_FWD_public
    goto filter_FWD_trusted
  }
  chain filter_FWD_public {
    jump filter_FWD_public_allow
    tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    reject with icmpx admin-prohibited
  }
  chain filter_FWD_public_allow { oifname \"eth0\" accept; meta l4proto icmp accept; }
  chain filter_FWD_trusted { accept; }
}
";

/// ufw, with its default of dropping what is forwarded, and one rule about it.
const UFW: &str = "
*filter
:FORWARD DROP [0:0]
:ufw-before-logging-input - [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-user-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
:ufw-logging-deny - [0:0]
:ufw-not-local - [0:0]
:ufw-user-limit - [0:0]
:ufw-user-limit-accept - [0:0]
-A INPUT -j ufw-before-logging-input
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 \
 --hitcount 6 -j ufw-user-limit
-A ufw-user-limit -m limit --limit 3/min -j LOG --log-prefix \"[UFW LIMIT BLOCK] \"
-A ufw-user-limit -j REJECT
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 3 -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-user-forward -p tcp -d 10.5.0.0/16 --dport 80 -j ACCEPT
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \
 \"[UFW BLOCK] \"
-A ufw-logging-deny -m conntrack --ctstate INVALID -m limit --limit 3/min -j RETURN
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"
COMMIT
";

const BOTH: [&str; 2] = ["iptables-nft-restore", "iptables-legacy-restore"];

/// kube-proxy's rules; from 1.31 on, packets that it drops as invalid are accounted for.
fn kube_proxy(drop: &str) -> String {
    KUBE_PROXY.replace("INVALID_DROP", drop)
}

#[test]
fn docker_is_eligible() {
    for restore in BOTH {
        in_namespace(async move || {
            feed(restore, DOCKER);
            assert_sound(restore);
        });
    }
}

#[test]
fn ufw_is_eligible() {
    for restore in BOTH {
        in_namespace(async move || {
            feed(restore, UFW);
            assert_sound(restore);
        });
    }
}

#[test]
fn firewalld_is_eligible() {
    in_namespace(async || {
        nft(FIREWALLD);
        assert_sound("firewalld");
    });
}

#[test]
fn kube_proxy_is_eligible() {
    for restore in BOTH {
        in_namespace(async move || {
            feed(restore, &kube_proxy("-j DROP"));
            assert_sound(restore);
        });
    }
    in_namespace(async || {
        nft(KUBE_PROXY_NFT);
        assert_sound("nftables");
        // What is fine in a chain of type nat is not elsewhere.
        nft("add rule ip kube-proxy filter-forward numgen random mod 2 0 goto reject-chain");
        assert_unsound("lots", "nft chain ip kube-proxy filter-forward");
    });
}

#[test]
fn accounting_objects_count_only_with_a_quota() {
    for restore in BOTH {
        in_namespace(async move || {
            add_accounting("free", None);
            add_accounting("costly", Some(1 << 30));
            let rules = |name| kube_proxy(&format!("-m nfacct --nfacct-name {name} -j DROP"));
            feed(restore, &rules("free"));
            assert_sound(restore);
            feed(restore, &rules("costly"));
            assert_unsound(restore, "match nfacct counts packets");
        });
    }
}

/// Adds an accounting object, as `nfacct add` does.
fn add_accounting(name: &str, quota: Option<u64>) {
    // `NFNL_SUBSYS_ACCT`, `NFNL_MSG_ACCT_NEW`; request, acknowledgement, create.
    let (kind, flags) = (7_u16 << 8, 0x1_u16 | 0x4 | 0x400);
    let attribute = |kind: u16, value: &[u8]| {
        let len = 4 + value.len();
        let mut octets = [&(len as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(len.next_multiple_of(4), 0);
        octets
    };
    let mut body = vec![0; 4];
    body.extend(attribute(1, format!("{name}\0").as_bytes()));
    if let Some(octets) = quota {
        // `NFACCT_F_QUOTA_BYTES`.
        body.extend(attribute(5, &2_u32.to_be_bytes()));
        body.extend(attribute(6, &octets.to_be_bytes()));
    }
    let len = 16 + body.len() as u32;
    let request = [
        &len.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        &body,
    ]
    .concat();
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket.send(&request, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    assert_eq!(answer[16..20], [0; 4], "add accounting object {name}");
}
