//! What a bake notes about packages, with an apt of the test's own on the machines.

use piaas_bake::bake::{Cancel, images};

use super::World;

/// The base has one package; once the step has run there is another, and a newer version of the first.
const DPKG_QUERY: &str = "#!/bin/sh
if [ -e \"$MACHINE/built\" ]; then printf 'ii base 2\\nrc gone 1\\nii new-%s 1.0-1\\n' \"$(cat \"$MACHINE/built\")\"
else printf 'ii base 1\\n'; fi
";

/// `base` is held back at 2, 3 is on offer; of the others the installed version is the newest.
const APT_CACHE: &str = "#!/bin/sh
shift
for name in \"$@\"; do
    case $name in
        base) printf '%s:\\n  Installed: 2\\n  Candidate: 2\\n  Version table:\\n     9~bpo 100\\n        100 http://m backports\\n     3 500\\n        500 http://m main\\n *** 2 1001\\n        100 /var/lib/dpkg/status\\n' \"$name\" ;;
        *) printf '%s:\\n  Installed: 1.0-1\\n  Candidate: 1.0-1\\n  Version table:\\n *** 1.0-1 500\\n        500 http://m main\\n        100 /var/lib/dpkg/status\\n' \"$name\" ;;
    esac
done
";

const APT_GET: &str = "#!/bin/sh
lists=$MACHINE/lists
mkdir -p \"$lists\"
printf 'Suite: x\\nMD5Sum:\\n 11 1 main/binary-amd64/Packages\\nSHA256:\\n 2222 1 main/binary-amd64/Packages\\n' >\"$lists/m_dists_x_InRelease\"
echo \"http://m/dists/x/main/binary-amd64/Packages main/binary-amd64/Packages $lists/m_dists_x_main_binary-amd64_Packages.lz4\"
echo \"http://n/dists/y/main/binary-amd64/Packages main/binary-amd64/Packages $lists/n_dists_y_main_binary-amd64_Packages\"
";

/// Lets machines have packages.
pub(super) fn with_packages(world: &World) {
    for (name, script) in [
        ("dpkg-query", DPKG_QUERY),
        ("apt-cache", APT_CACHE),
        ("apt-get", APT_GET),
    ] {
        world.machines.provide(name, script);
    }
}

fn lines(record: &piaas_bake::bake::packages::Record) -> Vec<String> {
    let mut lines = Vec::new();
    for part in &record.parts {
        lines.extend(
            part.packages
                .iter()
                .map(|one| format!("{} {} {}", one.name, one.version, one.offered)),
        );
        lines.extend(
            part.indexes
                .iter()
                .map(|one| format!("{}{} {}", one.suite, one.path, one.sha256)),
        );
    }
    lines
}

#[tokio::test]
async fn what_was_installed_is_kept_with_the_image() {
    let world = World::new().await;
    with_packages(&world);
    let target = world.target().await;
    let plan = world.plan(&target).await;
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let record = images::packages(&world.clients, &baked.image)
        .await
        .unwrap()
        .expect("it was noted");
    assert_eq!(
        lines(&record),
        [
            "base 2 3",
            "new-worker 1.0-1 1.0-1",
            "http://m/dists/x/main/binary-amd64/Packages 2222",
        ]
    );
}

#[tokio::test]
async fn a_machine_that_cannot_tell_is_baked_all_the_same() {
    let world = World::new().await;
    world.machines.provide("dpkg-query", DPKG_QUERY);
    world.machines.provide("apt-cache", APT_CACHE);
    world
        .machines
        .provide("apt-get", "#!/bin/sh\necho broken; exit 100\n");
    let target = world.target().await;
    let plan = world.plan(&target).await;
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let record = images::packages(&world.clients, &baked.image)
        .await
        .unwrap();
    assert_eq!(record, None);
}
