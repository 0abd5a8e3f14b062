//! Bakes, their end and their clean-up by somebody who has the printed policy and no more.

use std::collections::BTreeSet;

use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use piaas_bake::aws::parameters;
use piaas_bake::iam::{self, Place};
use piaas_bake::lifecycle;
use piaas_bake::localcloud::{BASE_IMAGE, DEFAULT_REGION};
use serde_json::Value;

use super::calls::{base, targets};
use super::resumed::{Kind, kinds, world};
use super::*;
use crate::iam::Judge;

const PLACE: Place<'static> = Place {
    account: ACCOUNT_ID,
    region: DEFAULT_REGION,
};

impl World {
    /// From now on the world acts by this policy.
    async fn under(&mut self, policy: &Value) -> Arc<Judge> {
        let plain = aws::connect(
            piaas_bake::localcloud::connector(self.wire.cloud()),
            self.clock.clone(),
        )
        .await;
        let judge = Judge::new(policy, plain);
        self.clients = aws::connect(judge.before(self.wire.client()), self.clock.clone()).await;
        judge
    }

    fn policy(&self, plan: &Plan) -> Value {
        iam::bake(plan, &base(), self.bundles.as_ref(), PLACE)
    }

    /// Acts as somebody who may do everything again.
    async fn freely(&mut self) {
        self.clients = aws::connect(self.wire.client(), self.clock.clone()).await;
    }
}

/// What no flow here needs, and why the policy has it all the same.
const JUSTIFIED: [(&str, &str); 0] = [];

/// The sum of what was not needed by any of several judges of the same policy.
fn never_used(judges: &[Arc<Judge>]) -> BTreeSet<String> {
    let mut all = judges.iter().map(|judge| judge.unused());
    let first = all.next().unwrap();
    all.fold(first, |all, one| all.intersection(&one).cloned().collect())
}

/// A bake of each kind of target goes well by its policy alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_bake_needs_its_policy_and_no_more() {
    for number in 0..3 {
        let mut world = World::new().await;
        let target = targets(&world).await.swap_remove(number);
        let through_bucket = bundles::through_bucket(&mut world).await;
        // An image that nobody finished is in the way.
        let plan = world.plan(&target).await;
        let (at, _) = requests()
            .await
            .into_iter()
            .find(|(_, operation)| operation == "CreateImage")
            .unwrap();
        killed(&world, &plan, Fault::HangAfter(at + 2), "an image is begun").await;
        world.clock.sleep(Duration::from_secs(8 * 3600)).await;
        let plan = world.plan(&target).await;
        let judge = world.under(&world.policy(&plan)).await;
        world.clients.account(|_| ()).await.unwrap();
        world.target().await;
        let plan = world.plan(&target).await;
        let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
        judge.assert_content(&format!("target {number}"));
        assert_eq!(baked.left_over, []);
        if through_bucket {
            assert_lent(&world, &judge).await;
        }
    }
}

/// The URL that a machine was lent stands for a request of ours.
async fn assert_lent(world: &World, judge: &Judge) {
    let arguments = world.machines.texts("curl-arguments").concat();
    let url = arguments
        .split_whitespace()
        .find(|word| word.contains("X-Amz-Signature"))
        .expect("a machine was lent a URL");
    let request = http::Request::get(url.trim_matches(['"', '\'']));
    let request = request.body(bytes::Bytes::new()).unwrap();
    assert!(judge.refuse(&request).await.is_none(), "{url}");
}
