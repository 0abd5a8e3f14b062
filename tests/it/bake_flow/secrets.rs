//! A secret goes through a bake: the step has it, and nothing else ever does.

use std::os::unix::fs::PermissionsExt as _;

use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::connector;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::serve::serve;
use piaas_bake::recipe::secret;
use piaas_bake::{digest, recipe, render};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::metadata::Metadata;
use crate::support::holding;

const RECIPE: &str = "schema: piaas-bake/v1
name: a
version: 1.0.0
description: Reads a secret.
from: { ami: ami-0123456789abcdef0 }
build: { instance_profile: builder }
parameters:
  token: { type: string, secret: true }
steps:
  - name: Use the token
    run: |
      stat -c 'the mode is %a' {{ token }} >\"$MACHINE/mode\"
      sha256sum <{{ token }} | cut -c 1-64 >\"$MACHINE/sum\"
      # As it was while the secret was there.
      cp -r \"$PIAAS_BUNDLE\" \"$MACHINE/kept\"
      env >\"$MACHINE/environment\"
      cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >\"$MACHINE/arguments\" || true
test:
  - { name: The image has none, run: \"true\" }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_in_the_step_and_nowhere_else() {
    let canary = format!(
        "canary-{}",
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, b"x")
    );
    // Where the secret is kept: another cloud, whose state is not searched.
    let vault = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let driver = Scripted::new(clock.clone());
    let cloud = LocalCloud::open(vault.path(), Arc::new(driver), clock.clone()).unwrap();
    let clients = aws::connect(connector(Arc::clone(&cloud)), clock).await;
    piaas_bake::aws::parameters::set_secret(&clients, "/ci/token".into(), canary.clone())
        .await
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(cloud, listener, std::future::pending()));

    let metadata = Metadata::start("i-1");
    // The agent itself, told where the services of this test are.
    let agent = format!(
        "#!/bin/sh\nexport AWS_EC2_METADATA_SERVICE_ENDPOINT={} AWS_ENDPOINT_URL={endpoint}\nexec '{}' \"$@\"\n",
        metadata.address,
        env!("CARGO_BIN_EXE_piaas-worker")
    );
    let recipes = tempfile::tempdir().unwrap();
    std::fs::create_dir(recipes.path().join("a")).unwrap();
    std::fs::write(recipes.path().join("a/recipe.yaml"), RECIPE).unwrap();
    let given = recipe::Given {
        sets: vec![("token".into(), "ssm:/ci/token".into())],
        ..recipe::Given::default()
    };
    let resolved = recipe::load(recipes.path(), "a", &given).unwrap();
    let mut layers = render::render(&resolved, agent.as_bytes()).unwrap();
    // A machine that is a directory has no /run of its own.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let secrets = memory.path().join("secrets");
    for script in &mut layers[0].provision {
        let own = secrets.display().to_string();
        script.text = script.text.replace(secret::DIR, &own);
    }
    let (manifest, digest) = digest::chain(&resolved, &layers).remove(0);
    let manifest_json = manifest.to_canonical_json();
    assert!(manifest_json.contains("ssm:/ci/token") && !manifest_json.contains(&canary));

    let world = World::new().await;
    let target = Target {
        layers: vec![LayerPlan::new(layers.remove(0), &manifest, digest)],
        ..world.target().await
    };
    let plan = world.plan(&target).await;
    assert_eq!(plan.secrets["token"], "ssm:/ci/token");
    let heard = Heard::default();
    let baked = world.bake(&plan, Cancel::never(), &heard).await.unwrap();
    assert_eq!(baked.left_over, []);

    // The step had it.
    let dir = world.dir.path();
    let sum = hex::encode(Sha256::digest(canary.as_bytes()));
    assert_eq!(holding(&dir.join("machines"), &sum).len(), 1);
    // A whole phrase: "400" alone is also in the number of some process, whose arguments are on the machine too.
    assert_eq!(holding(&dir.join("machines"), "the mode is 400").len(), 1);
    let file = std::fs::metadata(secrets.join("token")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o400);
    // Its reference is in the scripts and in what is on record; the search finds what is there.
    assert!(!holding(&dir.join("machines"), "ssm:/ci/token").is_empty());
    // It is stored packed, so it is read back.
    let stored = images::manifest(&world.clients, &plan.digest)
        .await
        .unwrap();
    let stored = stored.unwrap();
    assert!(stored.contains("ssm:/ci/token") && !stored.contains(&canary));
    // The canary is in no script, bundle, environment or argument list, no log, no journal, no state, no event.
    assert_eq!(holding(dir, &canary), [] as [String; 0]);
    let events = format!("{:?}", heard.0.into_inner().unwrap());
    assert!(events.contains("Fetch 1 secret") && !events.contains(&canary));
}
