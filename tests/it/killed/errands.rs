//! What else changes something in the cloud, or in recipes: `rebake`, `lock`, `verify`, `diff`, `images promote` and
//! `cloud run`.

use std::collections::BTreeSet;

use piaas_bake::bake::images;
use piaas_bake::bake::names::Channel;
use piaas_bake::localcloud::BASE_IMAGE;
use piaas_bake::recipe::Lock;

use super::World;
use super::bake::BAKE;
use super::errand::{Errand, swept};
use crate::support::machines_wanted;

impl World {
    /// Whole images, as many as may be, the parameters that name them, and nothing else.
    async fn assert_images(&self, images: &[usize], names: &[usize], context: &str) {
        let mut things = self.things().await;
        let mut count = |thing: &str| {
            let before = things.len();
            things.retain(|one| !one.starts_with(thing));
            before - things.len()
        };
        let [ready, snapshots, manifests] =
            ["ready image", "snapshot ", "manifests"].map(&mut count);
        // Packages are noted for no more.
        let (named, noted) = (count("web"), count("images"));
        assert!(
            images.contains(&ready) && snapshots == ready && manifests == ready && noted <= ready,
            "{context}: {ready} {snapshots} {manifests} {noted}"
        );
        assert!(names.contains(&named), "{context}: {named}");
        assert_eq!(things, [] as [String; 0], "{context}");
        assert_eq!(self.unfinished(), 0, "{context}");
    }

    async fn passes(&self, args: &[&str], context: &str) -> String {
        let run = self.run(args).await;
        assert_eq!(run.code, Some(0), "{context}: {args:?}: {}", run.stderr);
        run.stdout
    }

    /// The images that the recipe's name means, and its candidate.
    async fn named(&self) -> [String; 2] {
        let channels = images::channels(&self.clients, "web").await.unwrap();
        [Channel::Latest, Channel::Candidate].map(|channel| channels[&channel].clone())
    }

    /// What is in the recipe's directory.
    fn files(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.sandbox.recipes().join("web")).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// An image of a recipe that was changed since.
async fn changed() -> World {
    let world = World::new().await;
    let _ = world.run(&BAKE).await.expect_code(0);
    let recipe = world.sandbox.recipes().join("web/recipe.yaml");
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text.replace("echo second", "echo other")).unwrap();
    world
}

/// An image, and a candidate.
async fn with_candidate() -> World {
    let world = changed().await;
    let _ = world.run(Rebake::ARGS).await.expect_code(0);
    world
}

/// A recipe with a lock file, on machines where locks do not meet.
async fn apart() -> World {
    let world = World::new().await;
    world.machines.set_apart();
    world
}

struct Rebake;

impl Errand for Rebake {
    const WHAT: &'static str = "a rebake";
    const ARGS: &'static [&'static str] = &["rebake", "--stale"];
    const AT_WRITES: bool = false;

    async fn prepared() -> World {
        changed().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        if world.unfinished() > 0 {
            world.passes(&["bake", "--resume"], context).await;
        }
        world.passes(Self::ARGS, context).await;
        world.assert_images(&[2], &[2], context).await;
        let [latest, candidate] = world.named().await;
        assert_ne!(latest, candidate, "{context}");
        let mut ran = world.machines.texts("ran");
        ran.sort();
        assert_eq!(ran, ["first\nother\n", "first\nsecond\n"], "{context}");
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_images(&[1, 2], &[1, 2], context).await;
    }
}

struct Promotion;

impl Errand for Promotion {
    const WHAT: &'static str = "a promotion";
    const ARGS: &'static [&'static str] = &["images", "promote", "web@candidate"];

    async fn prepared() -> World {
        with_candidate().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        world.passes(Self::ARGS, context).await;
        world.assert_images(&[2], &[2], context).await;
        let [latest, candidate] = world.named().await;
        assert_eq!(latest, candidate, "{context}");
    }

    async fn assert_removed(world: &World, context: &str) {
        // It names the one or the other, and not nothing.
        world.named().await;
        world.assert_images(&[2], &[2], context).await;
    }
}

/// Goes on with what has machines for a while: it is begun anew, and leaves so many images and nothing else.
async fn begun_anew<E: Errand>(world: &World, images: usize, context: &str) {
    world.passes(E::ARGS, context).await;
    world.passes(&["gc", "--yes"], context).await;
    world.assert_images(&[images], &[images], context).await;
}

struct Diff;

impl Errand for Diff {
    const WHAT: &'static str = "a comparison by machines";
    const ARGS: &'static [&'static str] = &["diff", "web", "web@candidate"];

    async fn prepared() -> World {
        with_candidate().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        begun_anew::<Self>(world, 2, context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_images(&[2], &[2], context).await;
    }
}

struct CommandOnAMachine;

impl Errand for CommandOnAMachine {
    const WHAT: &'static str = "a command on a machine of an image";
    const ARGS: &'static [&'static str] = &["cloud", "run", "web", "--", "true"];

    async fn prepared() -> World {
        let world = World::new().await;
        let _ = world.run(&BAKE).await.expect_code(0);
        world
    }

    async fn gone_on_with(world: &World, context: &str) {
        begun_anew::<Self>(world, 1, context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_images(&[1], &[1], context).await;
    }
}

struct Locking;

impl Errand for Locking {
    const WHAT: &'static str = "locking";
    const ARGS: &'static [&'static str] = &["lock", "web"];

    async fn prepared() -> World {
        apart().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        world.assert_lock_is_whole(context);
        world.passes(Self::ARGS, context).await;
        world.passes(&["gc", "--yes"], context).await;
        world.assert_images(&[0], &[0], context).await;
        // It has all now, and nothing lies beside it.
        assert_eq!(world.passes(Self::ARGS, context).await, "", "{context}");
        assert_eq!(
            world.files(),
            ["recipe.lock", "recipe.yaml"].map(str::to_owned).into(),
            "{context}"
        );
        let text = std::fs::read_to_string(world.lock()).unwrap();
        assert!(text.ends_with('\n'));
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_lock_is_whole(context);
        world.assert_images(&[0], &[0], context).await;
    }
}

impl World {
    /// There is no lock file, or one that can be read to its end.
    fn assert_lock_is_whole(&self, context: &str) {
        let path = self.lock();
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let lock = Lock::read(&text, &path, "web").unwrap();
                assert_eq!(lock.to_text(), text, "{context}");
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{context}"),
        }
    }
}

/// An image that the base has been replaced by.
const OLD_BASE: &str = "ami-00000000000000001";

struct LockingAgain;

impl World {
    fn lock(&self) -> std::path::PathBuf {
        self.sandbox.recipes().join("web/recipe.lock")
    }
}

impl Errand for LockingAgain {
    const WHAT: &'static str = "locking again";
    const ARGS: &'static [&'static str] = &["lock", "web", "--update"];

    async fn prepared() -> World {
        let world = apart().await;
        let _ = world.run(Locking::ARGS).await.expect_code(0);
        // Something has moved since.
        let text = std::fs::read_to_string(world.lock()).unwrap();
        let old = text.replace(BASE_IMAGE, OLD_BASE);
        assert_ne!(old, text);
        std::fs::write(world.lock(), old).unwrap();
        world
    }

    async fn gone_on_with(world: &World, context: &str) {
        world.assert_lock_is_whole(context);
        world.passes(Self::ARGS, context).await;
        let text = std::fs::read_to_string(world.lock()).unwrap();
        assert!(text.contains(BASE_IMAGE), "{context}: {text}");
        Locking::gone_on_with(world, context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        Locking::assert_removed(world, context).await;
    }
}

/// What writes files alone, and nothing in the cloud.
struct Beginning;

impl Errand for Beginning {
    const WHAT: &'static str = "beginning a recipe";
    const ARGS: &'static [&'static str] = &["init", "new"];

    async fn prepared() -> World {
        World::new().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        // It is there, or nothing is in its way.
        let run = world.run(Self::ARGS).await;
        let is_there = run.stderr.contains("is already there");
        assert!(run.code == Some(0) || is_there, "{context}: {}", run.stderr);
        world.passes(&["lint", "new"], context).await;
        let left = std::fs::read_dir(world.sandbox.recipes().join("new")).unwrap();
        assert_eq!(left.count(), 1, "{context}");
    }

    async fn assert_removed(_: &World, _: &str) {}
}

struct Rendering;

impl Errand for Rendering {
    const WHAT: &'static str = "rendering";
    const ARGS: &'static [&'static str] = &["render", "web", "-o", "scripts"];

    async fn prepared() -> World {
        World::new().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        let scripts = world.sandbox.path().join("scripts");
        if !scripts.exists() {
            world.passes(Self::ARGS, context).await;
        }
        world
            .passes(&["render", "web", "-o", "again"], context)
            .await;
        let mut diff = tokio::process::Command::new("diff");
        diff.arg("-r")
            .arg(scripts)
            .arg(world.sandbox.path().join("again"));
        assert!(diff.status().await.unwrap().success(), "{context}");
        assert!(
            !world.sandbox.path().join(".scripts.new").exists(),
            "{context}"
        );
    }

    async fn assert_removed(_: &World, _: &str) {}
}

/// What writes no more than a file.
struct Planning;

impl Errand for Planning {
    const WHAT: &'static str = "planning";
    const ARGS: &'static [&'static str] = &["plan", "web", "-o", "web.plan"];

    async fn prepared() -> World {
        World::new().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        world.assert_plan_is_whole(context).await;
        let plan = world.sandbox.path().join("web.plan");
        if !plan.exists() {
            world.passes(Self::ARGS, context).await;
        }
        assert!(!plan.with_file_name(".web.plan.new").exists(), "{context}");
        world.passes(&["bake", "./web.plan"], context).await;
        world.assert_whole(Some(true), context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_plan_is_whole(context).await;
        world.assert_whole(Some(false), context).await;
    }
}

impl World {
    async fn assert_plan_is_whole(&self, context: &str) {
        if self.sandbox.path().join("web.plan").exists() {
            self.passes(&["plan", "./web.plan"], context).await;
        }
    }
}

struct Verification;

impl Errand for Verification {
    const WHAT: &'static str = "a verification";
    const ARGS: &'static [&'static str] = &["verify", "web"];
    const AT_WRITES: bool = false;

    async fn prepared() -> World {
        let world = apart().await;
        let _ = world.run(Locking::ARGS).await.expect_code(0);
        let _ = world.run(&BAKE).await.expect_code(0);
        world
    }

    async fn gone_on_with(world: &World, context: &str) {
        begun_anew::<Self>(world, 1, context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_images(&[1], &[1], context).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebake_that_is_killed_anywhere_is_gone_on_with_or_removed() {
    if machines_wanted("a rebake that is killed") {
        let count = swept::<Rebake>().await;
        assert!(count > 50, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_is_killed_anywhere_names_the_one_image_or_the_other() {
    if machines_wanted("a promotion that is killed") {
        let count = swept::<Promotion>().await;
        assert!(count > 4, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_tell_or_run_something_are_removed_wherever_their_run_is_killed() {
    if machines_wanted("a comparison that is killed") {
        let count = swept::<Diff>().await;
        assert!(count > 30, "{count}");
        let count = swept::<CommandOnAMachine>().await;
        assert!(count > 10, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_is_the_old_one_or_the_new_one_wherever_locking_is_killed() {
    if machines_wanted("locking that is killed") {
        let count = swept::<Locking>().await;
        assert!(count > 30, "{count}");
        let count = swept::<LockingAgain>().await;
        assert!(count > 30, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recipes_and_scripts_are_whole_or_not_there_wherever_their_making_is_killed() {
    if machines_wanted("what writes files, killed") {
        let count = swept::<Beginning>().await;
        assert!(count > 1, "{count}");
        let count = swept::<Rendering>().await;
        assert!(count > 0, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_file_is_whole_or_not_there_wherever_planning_is_killed() {
    if machines_wanted("planning that is killed") {
        let count = swept::<Planning>().await;
        assert!(count > 3, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_is_killed_anywhere_leaves_the_image_and_nothing_else() {
    if machines_wanted("a verification that is killed") {
        let count = swept::<Verification>().await;
        assert!(count > 50, "{count}");
    }
}
