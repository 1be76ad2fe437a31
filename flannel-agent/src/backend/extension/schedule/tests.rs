use std::net::Ipv4Addr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::Action::{Add, Remove};
use super::*;

fn subnet(number: u8) -> Ipv4Network {
    Ipv4Network::new(Ipv4Addr::new(10, 5, number, 0), 24).unwrap()
}

fn facts(data: &str) -> PeerFacts {
    PeerFacts {
        public_ip: Ipv4Addr::new(192, 168, 7, 11),
        data: data.into(),
    }
}

/// A schedule with a clock that only the test moves.
struct Bed {
    schedule: Schedule,
    now: Instant,
    rng: StdRng,
}

impl Bed {
    fn new() -> Self {
        Self {
            schedule: Schedule::default(),
            now: Instant::now(),
            rng: StdRng::seed_from_u64(7),
        }
    }

    fn set(&mut self, peers: &[(u8, &str)]) {
        let peers = peers
            .iter()
            .map(|(number, data)| (subnet(*number), facts(data)));
        self.schedule.set(&peers.collect(), self.now);
    }

    /// The command that is due, as peer, action and data.
    fn take(&mut self) -> Option<(u8, Action, String)> {
        let job = self.schedule.take(self.now)?;
        Some((job.subnet.network().octets()[2], job.action, job.facts.data))
    }

    fn finish(&mut self, number: u8, result: Result<(), &str>) -> Next {
        let result = result.map_err(str::to_owned);
        self.schedule
            .finish(subnet(number), result, self.now, &mut self.rng)
    }

    /// Takes a command, which has to be this one, and ends it.
    fn expect(&mut self, number: u8, action: Action, data: &str, result: Result<(), &str>) -> Next {
        assert_eq!(self.take(), Some((number, action, data.to_owned())));
        self.finish(number, result)
    }

    fn wait(&mut self, next: Next) {
        let Next::Again(delay) = next else {
            panic!("{next:?}");
        };
        self.now += delay;
    }
}

#[test]
fn every_peer_is_added_once_and_removed_once() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a"), (2, "b")]);
    assert_eq!(bed.schedule.pending(), 2);
    assert_eq!(bed.expect(1, Add, "a", Ok(())), Next::Nothing);
    assert_eq!(bed.expect(2, Add, "b", Ok(())), Next::Nothing);
    bed.set(&[(1, "a"), (2, "b")]);
    assert_eq!((bed.take(), bed.schedule.pending()), (None, 0));
    bed.set(&[(2, "b")]);
    bed.expect(1, Remove, "a", Ok(()));
    bed.set(&[(2, "b")]);
    assert_eq!(bed.take(), None);
    assert_eq!(
        bed.schedule.peers.len(),
        1,
        "nothing is kept of a peer that is gone"
    );
    assert_eq!(bed.schedule.next_due(), None);
}

#[test]
fn a_peer_has_one_command_at_a_time() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a"), (2, "b")]);
    assert_eq!(bed.take().unwrap().0, 1);
    bed.set(&[(1, "changed"), (2, "b")]);
    assert_eq!(bed.take().unwrap().0, 2);
    assert_eq!(bed.take(), None);
    assert_eq!(bed.schedule.pending(), 2);
    bed.finish(1, Ok(()));
    bed.expect(1, Add, "changed", Ok(()));
    assert_eq!(bed.take(), None);
}

#[test]
fn a_peer_that_goes_while_it_is_added_is_removed_after_that() {
    for result in [Ok(()), Err("no")] {
        let mut bed = Bed::new();
        bed.set(&[(1, "a")]);
        bed.take().unwrap();
        bed.set(&[]);
        assert_eq!(bed.take(), None);
        let next = bed.finish(1, result);
        assert_ne!(matches!(next, Next::Superseded), result.is_ok());
        bed.expect(1, Remove, "a", Ok(()));
        assert_eq!((bed.take(), bed.schedule.peers.len()), (None, 0));
    }
}

#[test]
fn what_was_never_added_is_never_removed() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a")]);
    bed.set(&[]);
    assert_eq!((bed.take(), bed.schedule.peers.len()), (None, 0));
}

#[test]
fn a_peer_that_comes_back_in_time_is_left_alone() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a")]);
    bed.expect(1, Add, "a", Ok(()));
    bed.set(&[]);
    bed.set(&[(1, "a")]);
    assert_eq!(bed.take(), None);
    // With other data it is removed and added, in this order.
    bed.set(&[]);
    bed.set(&[(1, "b")]);
    bed.expect(1, Remove, "a", Ok(()));
    bed.expect(1, Add, "b", Ok(()));
    // Once the remove has begun, so is one that is as before.
    bed.set(&[]);
    assert_eq!(bed.take().unwrap().1, Remove);
    bed.set(&[(1, "b")]);
    assert_eq!(bed.take(), None);
    bed.finish(1, Ok(()));
    bed.expect(1, Add, "b", Ok(()));
}

#[test]
fn failures_are_tried_again_with_growing_delays_until_they_succeed() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a"), (2, "b")]);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let next = bed.expect(1, Add, "a", Err("no"));
        if bed.schedule.pending() == 1 {
            bed.expect(2, Add, "b", Ok(()));
        }
        assert_eq!(bed.take(), None, "not before its time");
        assert_eq!(bed.schedule.failures(), [(subnet(1), "no".to_owned())]);
        assert_eq!(bed.schedule.next_due().map(|due| due > bed.now), Some(true));
        bed.wait(next);
        let Next::Again(delay) = next else { panic!() };
        delays.push(delay);
    }
    assert!(delays[0] <= FIRST_DELAY && delays[4] > 8 * FIRST_DELAY);
    assert!(delays[11] <= LONGEST_DELAY && delays[11] > LONGEST_DELAY / 2);
    bed.expect(1, Add, "a", Ok(()));
    assert_eq!(bed.schedule.failures(), []);
    assert_eq!((bed.schedule.pending(), bed.take()), (0, None));
}

#[test]
fn a_change_ends_the_wait_after_a_failure() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a")]);
    bed.expect(1, Add, "a", Err("no"));
    bed.set(&[(1, "b")]);
    assert_eq!(bed.schedule.failures(), []);
    bed.expect(1, Add, "b", Err("no"));
    bed.set(&[]);
    bed.expect(1, Remove, "b", Ok(()));
    assert_eq!(bed.schedule.peers.len(), 0);
}

#[test]
fn a_remove_that_goes_on_failing_is_given_up() {
    let mut bed = Bed::new();
    bed.set(&[(1, "a")]);
    bed.expect(1, Add, "a", Ok(()));
    bed.set(&[]);
    for _ in 1..REMOVE_TRIES {
        let next = bed.expect(1, Remove, "a", Err("no"));
        bed.wait(next);
    }
    assert_eq!(bed.expect(1, Remove, "a", Err("no")), Next::GivenUp);
    assert_eq!((bed.take(), bed.schedule.peers.len()), (None, 0));
    // It stands in the way of no lease that comes later, either.
    bed.set(&[(1, "a")]);
    bed.expect(1, Add, "a", Ok(()));
    bed.set(&[]);
    bed.expect(1, Remove, "a", Err("no"));
    bed.set(&[(1, "b")]);
    assert_eq!(bed.expect(1, Remove, "a", Err("no")), Next::Superseded);
    bed.expect(1, Add, "b", Ok(()));
}

/// Whatever comes in whatever order: commands of a peer never overlap, every add is of what was
/// asked for at that time, no remove is without an add before it, and in the end the host has what
/// the leases say.
#[test]
fn random_histories_end_as_the_leases_say() {
    for seed in 0..200 {
        let mut bed = Bed::new();
        bed.rng = StdRng::seed_from_u64(seed);
        let mut rng = StdRng::seed_from_u64(seed + 1_000);
        let mut desired = BTreeMap::new();
        let mut host = BTreeMap::new();
        let mut running: Vec<Job> = Vec::new();
        for step in 0..300 {
            let is_calm = step > 200;
            match rng.random_range(0..4) {
                0 if !is_calm => {
                    desired.remove(&subnet(rng.random_range(0..4)));
                    bed.schedule.set(&desired, bed.now);
                }
                1 if !is_calm => {
                    let data = ["a", "b"].choose(&mut rng).unwrap();
                    desired.insert(subnet(rng.random_range(0..4)), facts(data));
                    bed.schedule.set(&desired, bed.now);
                }
                2 => {
                    if let Some(job) = bed.schedule.take(bed.now) {
                        assert!(running.iter().all(|other| other.subnet != job.subnet));
                        match job.action {
                            Add => assert_eq!(desired.get(&job.subnet), Some(&job.facts)),
                            Remove => assert!(host.contains_key(&job.subnet)),
                        }
                        // A command that fails may have done its work all the same.
                        if job.action == Add {
                            host.insert(job.subnet, job.facts.clone());
                        }
                        running.push(job);
                    }
                }
                _ if !running.is_empty() => {
                    let job = running.swap_remove(rng.random_range(0..running.len()));
                    let result = if is_calm || rng.random_bool(0.7) {
                        if job.action == Remove {
                            host.remove(&job.subnet);
                        }
                        Ok(())
                    } else {
                        Err("no".to_owned())
                    };
                    let next = bed
                        .schedule
                        .finish(job.subnet, result, bed.now, &mut bed.rng);
                    // What is then left on the host is nobody's any more.
                    let is_over = matches!(next, Next::GivenUp | Next::Superseded);
                    if job.action == Remove && is_over {
                        host.remove(&job.subnet);
                    }
                }
                _ => bed.now += Duration::from_secs(rng.random_range(0..400)),
            }
        }
        for _ in 0..100 {
            bed.now += LONGEST_DELAY;
            for job in std::mem::take(&mut running) {
                if job.action == Remove {
                    host.remove(&job.subnet);
                }
                bed.schedule
                    .finish(job.subnet, Ok(()), bed.now, &mut bed.rng);
            }
            while let Some(job) = bed.schedule.take(bed.now) {
                if job.action == Add {
                    host.insert(job.subnet, job.facts.clone());
                }
                running.push(job);
            }
        }
        assert_eq!(host, desired, "seed {seed}");
        assert_eq!(bed.schedule.pending(), 0);
        assert_eq!(bed.schedule.failures(), []);
    }
}
