//! Two bakes of one recipe on two hosts at the same time: one bakes, the other waits and uses its image; and if the first is
//! killed, wherever that is, the second takes over.

use std::collections::BTreeMap as Map;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use piaas_bake::clock::{Clock, Sleep};

use super::resumed::target;
use super::*;
use crate::support::{machines_wanted, tell};

/// A clock for several who share it: it goes on when all of them sleep, to the next who wakes.
#[derive(Debug, Clone)]
struct Together(Arc<Mutex<Moment>>);

#[derive(Debug)]
struct Moment {
    now: jiff::Timestamp,
    awake: usize,
    /// By when they wake, and in the order in which they fell asleep.
    sleepers: Map<(jiff::Timestamp, u64), Waker>,
    count: u64,
}

impl Moment {
    fn go_on(&mut self) {
        if self.awake == 0
            && let Some(((until, _), waker)) = self.sleepers.pop_first()
        {
            self.now = self.now.max(until);
            self.awake += 1;
            waker.wake();
        }
    }
}

impl Together {
    fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Moment {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            awake: count,
            sleepers: Map::new(),
            count: 0,
        })))
    }

    /// One of them does this, and does not use it any more then.
    async fn until_done<T>(&self, work: impl Future<Output = T>) -> T {
        let done = work.await;
        self.leave();
        done
    }

    /// One of them does not use it any more.
    fn leave(&self) {
        let mut moment = self.0.lock().unwrap();
        moment.awake -= 1;
        moment.go_on();
    }
}

impl Clock for Together {
    fn now(&self) -> jiff::Timestamp {
        self.0.lock().unwrap().now
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(Asleep {
            clock: self.clone(),
            until: self.now() + duration,
            place: None,
        })
    }
}

struct Asleep {
    clock: Together,
    until: jiff::Timestamp,
    place: Option<(jiff::Timestamp, u64)>,
}

impl Future for Asleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut moment = clock.0.lock().unwrap();
        if let Some(place) = self.place {
            let Some(waker) = moment.sleepers.get_mut(&place) else {
                return Poll::Ready(());
            };
            waker.clone_from(context.waker());
            return Poll::Pending;
        }
        let place = (self.until, moment.count);
        moment.count += 1;
        moment.sleepers.insert(place, context.waker().clone());
        moment.awake -= 1;
        moment.go_on();
        self.place = Some(place);
        match moment.sleepers.contains_key(&place) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let mut moment = self.clock.0.lock().unwrap();
        // Who wakes early, or is killed, is awake.
        if let Some(place) = self.place
            && moment.sleepers.remove(&place).is_some()
        {
            moment.awake += 1;
        }
    }
}

/// Another host, before the same cloud.
struct Host {
    clients: Clients,
    runs: std::path::PathBuf,
}

impl Host {
    async fn of(world: &World) -> Self {
        let wire = Wire::new(world.wire.cloud());
        Self {
            clients: aws::connect(wire.client(), world.clock.clone()).await,
            runs: world.dir.path().join("runs-elsewhere"),
        }
    }

    async fn bake(&self, plan: &Plan, sink: &dyn Sink<Event>) -> Result<Baked, BakeError> {
        let settings = Settings {
            runs: &self.runs,
            keep_on_failure: false,
            account: ACCOUNT_ID.into(),
            run: RunId::new(self.clients.clock.now(), 0x0e15_e0e5),
            bundles: None,
            cancel: Cancel::never(),
            layers: None,
            disks: None,
        };
        bake::bake(&self.clients, plan, settings, sink).await
    }
}

/// A world whose clock two share, and what they bake.
async fn shared() -> (World, Together, Host, Plan) {
    let clock = Together::new(1);
    let world = World::on(Arc::new(clock.clone()), None, |machines, _| machines).await;
    noted::with_packages(&world);
    let plan = world.plan(&target(&world).await).await;
    let host = Host::of(&world).await;
    clock.0.lock().unwrap().awake = 2;
    world.wire.fail(Fault::None);
    (world, clock, host, plan)
}

/// There is one image, whole, and nothing else; of each builder that came so far its scripts have run once.
async fn assert_one(world: &World, image: &str, context: &str) {
    let all = images::list(&world.calm, None).await.unwrap();
    let [one] = all.as_slice() else {
        panic!("{context}: {all:?}");
    };
    assert!(one.is_ready() && one.id == image, "{context}: {one:?}");
    let things = world.things().await;
    assert_eq!(things.len(), 4, "{context}: {things:?}");
    for ran in world.machines.texts("ran") {
        let whole = "base/step-001\nworker/step-001\n";
        assert!(whole.starts_with(&ran), "{context}: {ran}");
    }
}

#[tokio::test]
async fn of_two_that_begin_at_once_one_bakes_and_the_other_uses_its_image() {
    let (world, clock, host, plan) = shared().await;
    let heard = Heard::default();
    let (first, second) = tokio::join!(
        clock.until_done(world.bake(&plan, Cancel::never(), &())),
        clock.until_done(host.bake(&plan, &heard)),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(!first.reused && second.reused);
    assert_eq!(first.image, second.image);
    assert_eq!((&first.left_over, &second.left_over), (&vec![], &vec![]));
    assert_one(&world, &first.image, "two at once").await;
    assert_eq!(world.machines.texts("ran").len(), 1);
    let heard = heard.0.lock().unwrap();
    assert!(
        heard.iter().any(|event| matches!(
            event,
            Event::Waiting { what, state } if what.contains(&first.run) && state == "bakes the same"
        )),
        "{heard:?}"
    );
}

/// AWS takes requests that are signed up to five minutes off: the clocks of two hosts may be ten apart.
const CLOCKS: [(i64, i64); 4] = [(-290, 0), (-290, 290), (290, -290), (0, 290)];

#[tokio::test]
async fn clocks_that_differ_change_nothing_of_that() {
    for (of_first, of_second) in CLOCKS {
        let context = format!("clocks wrong by {of_first} s and {of_second} s");
        let (mut world, clock, mut host, plan) = shared().await;
        world.set_wrong(of_first);
        host.clients.clock = trouble::wrong(host.clients.clock.clone(), of_second);
        let (first, second) = tokio::join!(
            clock.until_done(world.bake(&plan, Cancel::never(), &())),
            clock.until_done(host.bake(&plan, &())),
        );
        let first = first.unwrap_or_else(|error| panic!("{context}: {error}"));
        let second = second.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(first.reused != second.reused, "{context}");
        assert_eq!(first.image, second.image, "{context}");
        assert_one(&world, &first.image, &context).await;
        assert_eq!(world.machines.texts("ran").len(), 1, "{context}");
    }
}

#[tokio::test]
async fn clocks_that_differ_do_not_hide_that_the_first_has_died() {
    for (of_first, of_second) in CLOCKS {
        let context = format!("clocks wrong by {of_first} s and {of_second} s");
        let (mut world, clock, mut host, plan) = shared().await;
        world.set_wrong(of_first);
        host.clients.clock = trouble::wrong(host.clients.clock.clone(), of_second);
        let begun = clock.now();
        world.wire.fail(Fault::HoldThe("RunInstances"));
        let first = async {
            tokio::select! {
                over = world.bake(&plan, Cancel::never(), &()) => panic!("{context}: {over:?}"),
                () = world.wire.hung.notified() => {}
            }
        };
        let second = clock.until_done(host.bake(&plan, &()));
        let ((), second) = tokio::join!(clock.until_done(first), second);
        let second = second.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(!second.reused, "{context}");
        // A bake takes two minutes here, and the lease of a dead one holds for one.
        let took = clock.now().duration_since(begun).as_secs();
        assert!((60..240).contains(&took), "{context}: {took} s");
        world.wire.fail(Fault::None);
        clock.0.lock().unwrap().awake = 1;
        world.undo_dead_runs().await;
        assert_one(&world, &second.image, &context).await;
    }
}

#[tokio::test]
async fn wherever_the_first_is_killed_the_second_takes_over() {
    let all = {
        let (world, clock, _, plan) = shared().await;
        clock.leave();
        let _ = world.bake(&plan, Cancel::never(), &()).await.unwrap();
        world.wire.operations()
    };
    let steps = all.iter().enumerate();
    let steps: Vec<_> = steps.filter(|(_, operation)| changes(operation)).collect();
    let some = if machines_wanted("most of the places where the first of two bakes is killed") {
        1
    } else {
        8
    };
    let (mut killed, mut reused) = (0, 0);
    for (number, operation) in steps.into_iter().step_by(some) {
        for fault in [Fault::HangBefore(number), Fault::HangAfter(number)] {
            let context = format!("{operation}: {fault:?}");
            let (world, clock, host, plan) = shared().await;
            world.wire.fail(fault);
            let first = async {
                tokio::select! {
                    _over = world.bake(&plan, Cancel::never(), &()) => false,
                    () = world.wire.hung.notified() => true,
                }
            };
            let second = clock.until_done(host.bake(&plan, &()));
            let (hung, second) = tokio::join!(clock.until_done(first), second);
            let second = second.unwrap_or_else(|error| panic!("{context}: {error}"));
            killed += usize::from(hung);
            reused += usize::from(second.reused);
            world.wire.fail(Fault::None);
            clock.0.lock().unwrap().awake = 1;
            let dead = world.undo_dead_runs().await;
            assert!(
                dead.iter().all(|run| run.left_over.is_empty()),
                "{context}: {dead:?}"
            );
            assert_one(&world, &second.image, &context).await;
        }
    }
    tell(&format!(
        "killed: the first of two bakes of one recipe, {killed} times; the second has used its image {reused} times, and \
         baked else: one image each time, nothing left"
    ));
    assert!(
        killed > 5 && reused > 0 && reused < killed,
        "{killed}, {reused}"
    );
}
