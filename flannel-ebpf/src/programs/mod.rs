//! The programs: one file per backend, and what they share per direction.
//!
//! | program          | hook                           | takes                                      |
//! |------------------|--------------------------------|--------------------------------------------|
//! | `vxlan_encap`    | tc egress, tunnel device       | inner IPv4 for a peer, out to the wire     |
//! | `vxlan_decap`    | tc ingress, external interface | VXLAN from a peer, into the tunnel device  |
//! | `udp_encap`      | tc egress, TUN device          | IPv4 for a peer, out to the wire           |
//! | `udp_decap`      | tc ingress, external interface | flannel's UDP from a peer, into the TUN    |
//! | `direct_egress`  | tc egress, external interface  | nothing: counts IPv4 to direct peers       |
//! | `direct_ingress` | tc ingress, external interface | nothing: counts IPv4 from direct peers     |
//! | `from_pod`       | tc ingress, a pod's interface  | packets of admitted flows, to peer or pod  |
//! | `to_pod`         | tc egress, a pod's interface   | nothing: admits flows to the fast path     |
//! | `xdp_vxlan`      | XDP, external interface        | the headers off for `vxlan_decap`          |
//! | `xdp_udp`        | XDP, external interface        | the headers off for `udp_decap`            |
//! | `probe_helpers`  | none: test runs of the agent   | nothing: tries what helpers accept         |
//!
//! A program is a decision (`Result<_, Outcome>`), an action, and one count at its edge. On doubt
//! the packet goes to the kernel path, unchanged. There are no tail calls: one program per hook can
//! be replaced in place without a moment in between.

mod direct;
mod egress;
mod fast;
mod ingress;
mod probe;
mod udp;
mod vxlan;
mod xdp;
