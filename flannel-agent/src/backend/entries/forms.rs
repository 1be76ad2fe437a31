//! In which form routes to tunnelled peers are made. Pure.
//!
//! A route names its next hop itself, as flannel's do, or by a next-hop object. Packets go the same
//! way, so the plan knows nothing of it; what differs is the cost. For a route of the first form
//! Linux searches all next hops of the device (`fib_find_info` in net/ipv4/fib_semantics.c, 6.18),
//! so that ten thousand take 2.3 s; of the second form they take 0.4 s, the objects included. So the
//! first [`PLAIN_ROUTES`] look exactly like stock flannel's, and those beyond have objects. A route
//! that is there stays as it is.
//!
//! An object is there before its route, and goes after it: one that goes before takes its route
//! along, and the kernel through all tables for it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::netlink::next_hop::NextHop;
use crate::netlink::route::{Form, Via};
use crate::plan::Action;

/// Routes without objects. At the last of these the search takes as long as all the rest of making a
/// route, some 20 µs; larger clusters than that are few.
pub const PLAIN_ROUTES: usize = 512;

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forms {
    /// Routes that name their next hop.
    plain: BTreeSet<Ipv4Network>,
    /// Routes through an object of ours.
    through_objects: BTreeSet<Ipv4Network>,
    /// Our objects without a route, by their gateways.
    unused: BTreeSet<Ipv4Addr>,
    /// Whether the kernel has no such objects.
    are_unsupported: bool,
}

/// One request to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An action as it is: what it sets is plain, and so is what it removes.
    Plain(Action),
    /// Set a route through an object.
    SetRoute {
        /// Subnet of the peer.
        subnet: Ipv4Network,
        /// What the route would be in the other form.
        via: Via,
    },
    /// Remove a route through an object.
    RemoveRoute(Ipv4Network),
    /// Remove the object of a gateway.
    RemoveObject(Ipv4Addr),
}

/// What carries out a plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Objects to be added before everything else.
    pub objects: Vec<NextHop>,
    /// The rest, in order.
    pub steps: Vec<Step>,
}

impl Forms {
    /// The forms of these routes of a device, given the gateways of our objects there. Says as well
    /// which routes are a peer's: not those through the object of somebody else.
    #[must_use]
    pub fn of(
        routes: impl Iterator<Item = (Ipv4Network, Form)>,
        objects: BTreeSet<Ipv4Addr>,
    ) -> (Self, BTreeSet<Ipv4Network>) {
        let (mut forms, mut unused) = (Self::default(), objects.clone());
        for (subnet, form) in routes {
            match form {
                Form::Plain => drop(forms.plain.insert(subnet)),
                Form::Object if objects.contains(&subnet.network()) => {
                    forms.through_objects.insert(subnet);
                    unused.remove(&subnet.network());
                }
                Form::Object => {}
            }
        }
        forms.unused = unused;
        let peers = forms.plain.union(&forms.through_objects);
        let peers = peers.copied().collect();
        (forms, peers)
    }

    /// Takes what was read for what is there.
    pub fn read(&mut self, read: Self) {
        *self = Self {
            are_unsupported: self.are_unsupported,
            ..read
        };
    }

    /// The kernel has no objects; says whether that is news.
    pub fn are_unsupported(&mut self) -> bool {
        !std::mem::replace(&mut self.are_unsupported, true)
    }

    /// Whether an object of ours is there.
    #[must_use]
    pub fn has_object(&self, gateway: Ipv4Addr) -> bool {
        self.unused.contains(&gateway) || self.is_used(gateway)
    }

    /// Whether the route to a subnet leads through an object.
    #[must_use]
    pub fn is_through_object(&self, subnet: Ipv4Network) -> bool {
        self.through_objects.contains(&subnet)
    }

    /// Whether objects are there that no route needs.
    #[must_use]
    pub fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// What carries out these actions, in their order, and removes objects that nothing needs any
    /// more. Takes all of it for done: after a failure, read anew.
    pub fn steps(&mut self, actions: Vec<Action>) -> Steps {
        let mut made = Steps::default();
        for action in actions {
            match action {
                Action::ReplaceRoute { subnet, via } if self.needs_object(subnet, via) => {
                    let Via { oif, gateway, .. } = via;
                    if !self.has_object(gateway) {
                        made.objects.push(NextHop { oif, gateway });
                    }
                    self.unused.remove(&gateway);
                    self.through_objects.insert(subnet);
                    made.steps.push(Step::SetRoute { subnet, via });
                }
                Action::ReplaceRoute { subnet, via } => {
                    self.forget(subnet);
                    if via.is_onlink {
                        self.plain.insert(subnet);
                    }
                    made.steps.push(Step::Plain(action));
                }
                Action::RemoveRoute { subnet, .. } => {
                    if self.forget(subnet) {
                        made.steps.push(Step::RemoveRoute(subnet));
                    }
                    // Somebody may have replaced it by a plain one.
                    made.steps.push(Step::Plain(action));
                }
                other => made.steps.push(Step::Plain(other)),
            }
        }
        let unused = std::mem::take(&mut self.unused);
        made.steps
            .extend(unused.into_iter().map(Step::RemoveObject));
        made
    }

    /// Makes these routes plain, since their objects cannot be had.
    pub fn without(&mut self, refused: &[NextHop], steps: &mut [Step]) {
        let refused: BTreeSet<_> = refused.iter().map(|it| it.gateway).collect();
        for step in steps {
            match *step {
                Step::SetRoute { subnet, via } if refused.contains(&via.gateway) => {
                    self.through_objects.remove(&subnet);
                    self.plain.insert(subnet);
                    *step = Step::Plain(Action::ReplaceRoute { subnet, via });
                }
                _ => {}
            }
        }
    }

    /// Only routes to tunnelled peers can become many: those to direct peers lead to neighbours on
    /// one link, of which the kernel keeps 1024 (`net.ipv4.neigh.default.gc_thresh3`).
    fn needs_object(&self, subnet: Ipv4Network, via: Via) -> bool {
        let is_tunnelled = via.is_onlink && via.gateway == subnet.network();
        let stays_plain = self.plain.contains(&subnet) || self.are_unsupported;
        let is_beyond = self.plain.len() >= PLAIN_ROUTES || self.through_objects.contains(&subnet);
        is_tunnelled && !stays_plain && is_beyond
    }

    /// The route is not there any more; says whether it led through an object.
    fn forget(&mut self, subnet: Ipv4Network) -> bool {
        self.plain.remove(&subnet);
        let was_through_object = self.through_objects.remove(&subnet);
        if was_through_object && !self.is_used(subnet.network()) {
            self.unused.insert(subnet.network());
        }
        was_through_object
    }

    /// Whether a route leads through the object of a gateway: of several subnets with one network
    /// address, which are there while one takes the place of the other, any.
    fn is_used(&self, gateway: Ipv4Addr) -> bool {
        let any = |length| Ipv4Network::new(gateway, length).ok();
        let (Some(widest), Some(narrowest)) = (any(0), any(32)) else {
            return false;
        };
        let mut range = self.through_objects.range(widest..=narrowest);
        range.next().is_some()
    }
}

#[cfg(test)]
mod tests;
