//! The programs, one file each.
//!
//! | program       | hook                          | takes                                     |
//! |---------------|-------------------------------|-------------------------------------------|
//! | `vxlan_encap` | tc egress, tunnel device      | inner IPv4 for a peer, out to the wire    |
//! | `vxlan_decap` | tc ingress, external interface | VXLAN from a peer, into the tunnel device |
//!
//! A program is a decision (`Result<_, Outcome>`), an action, and one count at its edge. On doubt
//! the packet goes to the kernel path, unchanged. There are no tail calls: one program per hook can
//! be replaced in place without a moment in between.

mod vxlan_decap;
mod vxlan_encap;
