//! Killing a verb wherever it can die: each time what is left is gone on with, and in another world that is the same it is
//! removed.

use std::sync::Arc;
use std::time::Instant;

use super::{Context, Point, World, all, killed, points, report, thinned};

/// Requests of a verb that is killed at all of its looks too.
const FEW: usize = 30;

/// A verb that is killed.
pub(super) trait Errand: 'static {
    /// For people.
    const WHAT: &'static str;
    const ARGS: &'static [&'static str];
    /// Whether it is killed as it writes too. Not what bakes: that journal is a bake's, which is killed at each record.
    const AT_WRITES: bool = true;

    /// The world before it.
    fn prepared() -> impl Future<Output = World> + Send;

    /// Goes on with what was killed: it comes to its end, nothing of it is there twice, and nothing is left.
    fn gone_on_with(world: &World, context: &str) -> impl Future<Output = ()> + Send;

    /// What is there when it was killed and `gc --yes` has removed what there was to remove.
    fn assert_removed(world: &World, context: &str) -> impl Future<Output = ()> + Send;
}

/// Kills a verb at each of these points; gives at how many of them it died.
pub(super) async fn sweep<E: Errand>(before: World, points: Vec<Point>, what: &str) -> usize {
    let started = Instant::now();
    let before = Arc::new(before);
    let count = points.len();
    let died = all(points.into_iter().map(|point| {
        let before = before.clone();
        async move {
            let context = Context(E::WHAT, &point).to_string();
            let world = before.fork().await;
            if !killed(&world, &point, E::ARGS, &context).await {
                return false;
            }
            let other = world.fork().await;
            E::gone_on_with(&world, &context).await;
            let gc = other.run(&["gc", "--yes"]).await;
            assert_eq!(gc.code, Some(0), "{context}: {}", gc.stderr);
            E::assert_removed(&other, &context).await;
            assert_eq!(other.unfinished(), 0, "{context}");
            true
        }
    }))
    .await;
    report(
        &format!("{}, at {died} of {count} {what}", E::WHAT),
        started,
    );
    died
}

/// Kills a verb at each of its requests and writes; gives at how many of them it died.
pub(super) async fn swept<E: Errand>() -> usize {
    let before = E::prepared().await;
    let world = before.fork().await;
    let (requests, writes) = world.recorded(E::ARGS).await;
    E::gone_on_with(&world, &format!("{}, never killed", E::WHAT)).await;
    let writes = if E::AT_WRITES { writes } else { Vec::new() };
    let records = writes.len();
    let requests = if requests.len() > FEW {
        thinned(&requests)
    } else {
        points(&requests)
    };
    let what = format!(
        "points ({} at requests, {records} at writes)",
        requests.len()
    );
    let points = requests.into_iter().chain(writes).collect();
    sweep::<E>(before, points, &what).await
}
