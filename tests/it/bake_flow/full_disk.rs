//! A journal that cannot be written: the bake ends with a clear error, and nothing is left.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::support::machines_wanted;

/// A small file system, until this is dropped.
struct Small(PathBuf);

impl Small {
    /// With so many pages of room; without any it is to be read only.
    fn mount(at: &Path, pages: usize) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = match pages {
            0 => "ro".to_owned(),
            pages => format!("size={}k", 4 * pages),
        };
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        assert!(mount.status().unwrap().success());
        Self(at.to_owned())
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        let mount = mount.args(["-o", "remount,size=16m"]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // One that stays is told by the temporary directory that cannot be removed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_bake_and_leaves_nothing_or_a_finished_image() {
    if !machines_wanted("a journal on a full disk") {
        return;
    }
    let mut ends = 0;
    for pages in 1.. {
        let world = World::new().await;
        let target = world.target().await;
        let disk = Small::mount(&world.runs(), pages);
        let plan = world.plan(&target).await;
        let context = format!("{pages} pages");
        let outcome = world.bake(&plan, Cancel::never(), &()).await;
        let Err(error) = outcome else {
            break;
        };
        ends += 1;
        assert!(
            matches!(error.failure, Failure::Journal(_) | Failure::Log { .. }),
            "{context}: {error}"
        );
        let said = format!("{:?}", error.failure);
        assert!(said.contains("StorageFull"), "{context}: {said}");
        assert_eq!(error.left_over, [], "{context}");
        assert_all_or_nothing(&world, &context).await;
        // What is there is whole, and once there is room it comes to its end.
        disk.grow();
        world.undo_dead_runs().await;
        assert_all_or_nothing(&world, &context).await;
        assert!(
            world
                .run_states()
                .iter()
                .all(|state| *state == RunState::Finished),
            "{context}"
        );
    }
    // One page is for the log; the journal has a second one.
    assert!(ends > 1, "only {ends} places at which the disk was full");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_said_before_anything_is_made() {
    if !machines_wanted("a journal that cannot be written") {
        return;
    }
    let world = World::new().await;
    let target = world.target().await;
    let _disk = Small::mount(&world.runs(), 0);
    let plan = world.plan(&target).await;
    world.wire.fail(Fault::None);
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert!(
        error.to_string().contains("cannot create the journal"),
        "{error}"
    );
    assert_eq!(world.wire.operations(), [] as [String; 0]);
}

/// Moves the clock once the steps run.
struct Jump(Arc<JumpingClock>);

impl Sink<Event> for Jump {
    fn emit(&self, event: Stamped) {
        let phase = Phase::Provision;
        if matches!(event.event, Event::PhaseStarted { phase: now } if now == phase) {
            self.0.advance(Duration::from_secs(7200));
        }
    }
}

/// The host was suspended, or its clock was set: the time limit is over, and everything is removed.
#[tokio::test]
async fn a_clock_that_jumps_ends_the_bake_and_leaves_nothing() {
    let clock = JumpingClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let world = World::on(clock.clone(), None, |machines, _| machines).await;
    let plan = world.plan(&world.target().await).await;
    let outcome = world.bake(&plan, Cancel::never(), &Jump(clock)).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error.failure, Failure::TooLong { .. }), "{error}");
    assert_eq!(world.things().await, [] as [String; 0]);
    assert_eq!(world.run_states(), [RunState::Finished]);
}
