use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const DEVICE: u32 = 9;

fn subnet(i: usize) -> Ipv4Network {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Network::new((base + (i as u32) * 256).into(), 24).unwrap()
}

fn tunnel(subnet: Ipv4Network) -> Via {
    Via {
        oif: DEVICE,
        gateway: subnet.network(),
        is_onlink: true,
    }
}

fn set(subnet: Ipv4Network) -> Action {
    let via = tunnel(subnet);
    Action::ReplaceRoute { subnet, via }
}

fn remove(subnet: Ipv4Network) -> Action {
    let via = tunnel(subnet);
    Action::RemoveRoute { subnet, via }
}

fn next_hop(subnet: Ipv4Network) -> NextHop {
    NextHop {
        oif: DEVICE,
        gateway: subnet.network(),
    }
}

/// With as many plain routes as there may be.
fn full() -> Forms {
    let routes = (0..PLAIN_ROUTES).map(|i| (subnet(i), Form::Plain));
    Forms::of(routes, BTreeSet::new()).0
}

#[test]
fn the_first_routes_are_plain_and_those_beyond_have_objects() {
    let mut forms = Forms::default();
    let count = PLAIN_ROUTES + 2;
    let Steps { objects, steps } = forms.steps((0..count).map(|i| set(subnet(i))).collect());
    let beyond = [subnet(PLAIN_ROUTES), subnet(PLAIN_ROUTES + 1)];
    assert_eq!(objects, beyond.map(next_hop));
    let plain = (0..PLAIN_ROUTES).map(|i| Step::Plain(set(subnet(i))));
    let through = beyond.map(|subnet| Step::SetRoute {
        subnet,
        via: tunnel(subnet),
    });
    assert_eq!(steps, plain.chain(through).collect::<Vec<_>>());
}

#[test]
fn a_route_keeps_its_form() {
    let (old, new) = (subnet(3), subnet(PLAIN_ROUTES));
    let mut forms = full();
    forms.steps(vec![set(new)]);
    // A new MAC changes no route; what overwrites one does not change its form.
    assert_eq!(forms.steps(vec![set(old)]).steps, [Step::Plain(set(old))]);
    forms.steps(vec![remove(old)]);
    let again = forms.steps(vec![set(new)]);
    assert_eq!(again.objects, []);
    let via = tunnel(new);
    assert_eq!(again.steps, [Step::SetRoute { subnet: new, via }]);
}

#[test]
fn an_object_goes_after_its_route() {
    let peer = subnet(PLAIN_ROUTES);
    let mut forms = full();
    forms.steps(vec![set(peer)]);
    assert!(forms.has_object(peer.network()));
    let expected = [
        Step::RemoveRoute(peer),
        Step::Plain(remove(peer)),
        Step::RemoveObject(peer.network()),
    ];
    assert_eq!(forms.steps(vec![remove(peer)]).steps, expected);
    assert_eq!(forms, full());
}

#[test]
fn an_object_stays_while_a_subnet_of_another_size_needs_it() {
    let narrow = subnet(PLAIN_ROUTES);
    let wide = Ipv4Network::new(narrow.network(), 20).unwrap();
    let mut forms = full();
    forms.steps(vec![set(narrow)]);
    let Steps { objects, steps } = forms.steps(vec![set(wide), remove(narrow)]);
    assert_eq!(objects, []);
    assert!(!steps.contains(&Step::RemoveObject(narrow.network())));
    let steps = forms.steps(vec![remove(wide)]).steps;
    assert!(steps.contains(&Step::RemoveObject(narrow.network())));
}

#[test]
fn a_peer_that_gets_a_direct_route_needs_no_object() {
    let peer = subnet(PLAIN_ROUTES);
    let direct = Action::ReplaceRoute {
        subnet: peer,
        via: Via {
            oif: 3,
            gateway: [192, 168, 7, 12].into(),
            is_onlink: false,
        },
    };
    let mut forms = full();
    forms.steps(vec![set(peer)]);
    let steps = forms.steps(vec![direct]).steps;
    let expected = [Step::Plain(direct), Step::RemoveObject(peer.network())];
    assert_eq!(steps, expected);
    assert_eq!(forms, full());
}

#[test]
fn without_an_object_a_route_is_plain() {
    let peers = [subnet(PLAIN_ROUTES), subnet(PLAIN_ROUTES + 1)];
    let mut forms = full();
    let Steps { objects, mut steps } = forms.steps(peers.map(set).to_vec());
    forms.without(&objects[..1], &mut steps);
    let via = tunnel(peers[1]);
    let through = Step::SetRoute {
        subnet: peers[1],
        via,
    };
    assert_eq!(steps, [Step::Plain(set(peers[0])), through]);
    assert!(!forms.is_through_object(peers[0]) && !forms.has_unused());

    assert!(forms.are_unsupported());
    assert!(!forms.are_unsupported());
    let later = forms.steps(vec![set(subnet(PLAIN_ROUTES + 2))]);
    assert_eq!(later.objects, []);
    // What is read says nothing of what the kernel can.
    forms.read(full());
    assert_eq!(forms.steps(vec![set(peers[0])]).objects, []);
}

#[test]
fn a_route_through_the_object_of_somebody_else_is_not_a_peers() {
    let [own, foreign, unused] = [0, 1, 2].map(subnet);
    let routes = [own, foreign].map(|subnet| (subnet, Form::Object));
    let objects = [own.network(), unused.network()].into();
    let (mut forms, peers) = Forms::of(routes.into_iter(), objects);
    assert_eq!(peers, [own].into());
    assert!(forms.has_unused());
    let steps = forms.steps(Vec::new()).steps;
    assert_eq!(steps, [Step::RemoveObject(unused.network())]);
    assert!(!forms.has_unused());
}

/// The kernel's tables.
#[derive(Debug, Clone, Default)]
struct Kernel {
    plain: BTreeSet<Ipv4Network>,
    through: BTreeSet<Ipv4Network>,
    objects: BTreeSet<Ipv4Addr>,
}

impl Kernel {
    fn perform(&mut self, Steps { objects, steps }: Steps) {
        for object in objects {
            assert!(self.objects.insert(object.gateway), "EEXIST");
        }
        for step in steps {
            match step {
                Step::Plain(Action::ReplaceRoute { subnet, .. }) => {
                    self.through.remove(&subnet);
                    self.plain.insert(subnet);
                }
                // ESRCH is tolerated.
                Step::Plain(Action::RemoveRoute { subnet, .. }) => {
                    self.plain.remove(&subnet);
                }
                Step::SetRoute { subnet, .. } => {
                    assert!(self.objects.contains(&subnet.network()), "EINVAL");
                    self.plain.remove(&subnet);
                    self.through.insert(subnet);
                }
                Step::RemoveRoute(subnet) => {
                    self.through.remove(&subnet);
                }
                Step::RemoveObject(gateway) => {
                    assert!(self.objects.remove(&gateway), "ENOENT");
                    let mut through = self.through.iter();
                    assert!(through.all(|subnet| subnet.network() != gateway), "flush");
                }
                Step::Plain(_) => {}
            }
        }
    }

    fn forms(&self) -> Forms {
        let plain = self.plain.iter().map(|subnet| (*subnet, Form::Plain));
        let through = self.through.iter().map(|subnet| (*subnet, Form::Object));
        Forms::of(plain.chain(through), self.objects.clone()).0
    }
}

#[test]
fn whatever_comes_and_goes_the_tables_hold_what_is_wanted() {
    let mut rng = StdRng::seed_from_u64(8);
    let mut kernel = Kernel::default();
    let mut forms = Forms::default();
    let mut wanted = BTreeSet::new();
    for _ in 0..2000 {
        let actions = (0..rng.random_range(1..40)).map(|_| {
            let subnet = subnet(rng.random_range(0..PLAIN_ROUTES + 200));
            let wide = Ipv4Network::new(subnet.network(), 20).unwrap();
            let is_wide = wide.network() == subnet.network() && rng.random_bool(0.5);
            let subnet = if is_wide { wide } else { subnet };
            if rng.random_bool(0.9) {
                wanted.insert(subnet);
                set(subnet)
            } else {
                wanted.remove(&subnet);
                remove(subnet)
            }
        });
        let steps = forms.steps(actions.collect());
        kernel.perform(steps);
        // Somebody replaces a route of ours.
        if rng.random_bool(0.05) {
            let through = kernel.through.pop_first();
            kernel.plain.extend(through);
        }
        let there: BTreeSet<_> = kernel.plain.union(&kernel.through).copied().collect();
        assert_eq!(there, wanted);
        if rng.random_bool(0.05) {
            forms.read(kernel.forms());
        }
    }
    assert!(kernel.through.len() > 20, "{}", kernel.through.len());
}
