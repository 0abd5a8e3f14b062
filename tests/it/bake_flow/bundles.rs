//! Bundles that go through a bucket.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use piaas_bake::localcloud::MACHINE_ENDPOINT;
use piaas_bake::localcloud::serve::serve;

use super::*;
use crate::support::holding;

const BUCKET: &str = "bundles";

/// What machines fetch with.
const CURL: &str = "curl";

/// A world whose bundles go through a bucket, with its cloud on loopback for the machines.
struct Served {
    world: World,
}

impl Served {
    /// `None`, said past the test harness's capture, if this host has nothing to fetch with.
    async fn new() -> Option<Self> {
        let mut world = World::new().await;
        through_bucket(&mut world).await.then_some(Self { world })
    }

    /// Keys in the bucket.
    async fn keys(&self) -> Vec<String> {
        let list = self.world.clients.s3.list_objects_v2().bucket(BUCKET);
        let answer = list.send().await.unwrap();
        let keys = answer.contents().iter();
        keys.map(|one| one.key().unwrap().to_owned()).collect()
    }
}

/// The program of this name on this host.
/// Whether this host has something to fetch with; if not, it is said past the test harness's capture.
pub(super) fn can_fetch() -> bool {
    let found = which(CURL).is_some();
    if !found {
        let _ = writeln!(
            std::io::stderr(),
            "left out: bundles through a bucket ({CURL})"
        );
    }
    found
}

/// Lets the bundles of a world go through a bucket. False if this host has nothing to fetch with.
pub(super) async fn through_bucket(world: &mut World) -> bool {
    let Some(real) = which(CURL).filter(|_| can_fetch()) else {
        return false;
    };
    let create = world.clients.s3.create_bucket().bucket(BUCKET);
    create.send().await.unwrap();
    world.bundles = Some(BundleStore {
        bucket: BUCKET.into(),
        prefix: "of/bakes".into(),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(serve(world.wire.cloud(), listener, async {
        // A dropped sender ends the server too.
        let _ = stopped.await;
    }));
    // The machines are directories of this host, where nobody is at the address of a machine's cloud.
    let there = MACHINE_ENDPOINT.strip_prefix("http://").unwrap();
    let real = real.display();
    world.machines.provide(
        CURL,
        &format!(
            "#!/bin/sh\necho \"$@\" >>\"$MACHINE/curl-arguments\"\n\
             exec {real} --noproxy '*' --connect-to {there}:127.0.0.1:{port} \"$@\"\n"
        ),
    );
    world.served = Some(stop);
    true
}

fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The same, behind what a version manager puts in its place.
fn executable(name: &str) -> Option<std::path::PathBuf> {
    let found = which(name)?;
    if name != "python3" {
        return Some(found);
    }
    let say = ["-c", "import sys; print(sys.executable)"];
    let output = std::process::Command::new(name).args(say).output().unwrap();
    Some(String::from_utf8(output.stdout).unwrap().trim().into())
}

/// Noise that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Adds a payload that a step compares with its SHA-256.
fn with_payload(plan: &mut Plan, bytes: Vec<u8>) {
    use sha2::Digest as _;
    let sha = hex::encode(sha2::Sha256::digest(&bytes));
    plan.steps[0].text = format!(
        "sha256sum \"$PIAAS_BUNDLE/files/{sha}\" | grep -q '^{sha} ' && echo the payload is whole && echo x >\"$MACHINE/built\"\n"
    );
    plan.payloads.insert(sha, bytes.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_through_a_bucket_is_one_command_and_leaves_nothing() {
    let Some(served) = Served::new().await else {
        return;
    };
    let world = &served.world;
    let mut plan = world.plan(&world.target().await).await;
    // More than fits into commands.
    with_payload(&mut plan, noise(20_000_000));
    let heard = Heard::default();
    world.wire.fail(Fault::None);
    world.bake(&plan, Cancel::never(), &heard).await.unwrap();
    assert_eq!(served.keys().await, [] as [String; 0]);
    let operations = world.wire.operations();
    let count = |name: &str| operations.iter().filter(|one| *one == name).count();
    // One for the builder, one for the tester.
    assert_eq!((count("PutObject"), count("DeleteObject")), (2, 2));
    assert!(count("SendCommand") < 25, "{operations:?}");

    let events = heard.0.into_inner().unwrap();
    let said = format!("{events:?}");
    assert!(said.contains("the payload is whole"));
    assert!(said.contains("s3://bundles/of/bakes/20260101T"), "{said}");
    // The URL is nowhere but in its command: not in journal, log, events, or in arguments of processes.
    let mut seen = said;
    for file in std::fs::read_dir(world.runs()).unwrap() {
        seen.push_str(&std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    for machine in std::fs::read_dir(world.dir.path().join("machines")).unwrap() {
        let arguments = machine.unwrap().path().join("curl-arguments");
        seen.push_str(&std::fs::read_to_string(arguments).unwrap_or_default());
    }
    assert!(seen.contains("--config -"), "curl was used");
    assert!(!seen.contains("X-Amz-Signature"), "{seen}");
}

/// Whoever can write to the bucket cannot have a machine run what he put there: nothing of it is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_was_changed_on_its_way_is_refused_before_anything_of_it_is_used() {
    let Some(served) = Served::new().await else {
        return;
    };
    let world = &served.world;
    let there = std::fs::read_to_string(world.dir.path().join("machines/bin").join(CURL)).unwrap();
    // A byte more, which gzip and tar would not mind.
    let meddle = there.replace("exec ", "") + "printf x >>bundle.tar.gz\n";
    world.machines.provide(CURL, &meddle);
    let plan = world.plan(&world.target().await).await;
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    let log = std::fs::read_to_string(&error.log).unwrap();
    let said = format!("{error} {:?} {log}", error.last_lines);
    assert!(said.contains("wrong checksum"), "{said}");
    assert_eq!(error.phase, Some(Phase::Send));
    let machines = world.dir.path().join("machines");
    // The bundle came, and nothing of it was unpacked or has run.
    assert_eq!(holding(&machines, "building base"), [] as [String; 0]);
    assert_eq!(world.machines.texts("built"), [""; 0]);
    assert_eq!(served.keys().await, [] as [String; 0]);
    assert_eq!(world.things().await, [] as [String; 0]);
}

#[tokio::test]
async fn without_a_bucket_a_large_bundle_is_refused_before_anything_is_made() {
    let world = World::new().await;
    let mut plan = world.plan(&world.target().await).await;
    with_payload(&mut plan, noise(20_000_000));
    world.wire.fail(Fault::None);
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert!(error.to_string().contains("20"), "{error}");
    let refused = bake::fits_commands(&plan).unwrap_err();
    assert_eq!(error.to_string(), refused.to_string());
    assert_eq!(world.wire.operations(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_named() {
    let Some(mut served) = Served::new().await else {
        return;
    };
    served.world.bundles.as_mut().unwrap().bucket = "elsewhere".into();
    let world = &served.world;
    let plan = world.plan(&world.target().await).await;
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let asked = world.wire.operations();
    assert!(!asked.contains(&"RunInstances".to_owned()), "{asked:?}");
    assert_eq!(error.left_over, []);
    assert_eq!(world.things().await, [] as [String; 0]);
}

/// A machine may have any of the three, and says so if it has none.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_programs_fetches_and_none_is_a_clear_error() {
    let bundle = noise(300_000);
    'machines: for (programs, expected) in [
        (&["curl", "wget", "python3"][..], "curl"),
        (&["wget", "python3"], "wget"),
        (&["python3"], "python3"),
        (&[], "none of curl, wget and python3"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for tool in ["sh", "mkdir", "rm", "cat", "sleep", "env"] {
            std::os::unix::fs::symlink(which(tool).unwrap(), bin.join(tool)).unwrap();
        }
        for program in programs {
            let Some(real) = executable(program) else {
                let _ = writeln!(
                    std::io::stderr(),
                    "left out: fetching with {expected} ({program})"
                );
                continue 'machines;
            };
            let script = format!(
                "#!/bin/sh\necho {program} >>{}/used\nexec {} \"$@\"\n",
                home.path().display(),
                real.display()
            );
            std::fs::write(bin.join(program), script).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(bin.join(program), mode).unwrap();
        }
        let (url, server) = serve_once(bundle.clone());
        let text = include_str!("../../../templates/fetch.sh")
            .replace("@DIR@", home.path().join("bundle").to_str().unwrap())
            .replace("@URL@", &url);
        let started = Instant::now();
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &text])
            .env_clear()
            .env("PATH", &bin)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains(&url), "{said}");
        if programs.is_empty() {
            assert!(!output.status.success());
            assert!(said.contains(expected), "{said}");
            continue;
        }
        assert!(output.status.success(), "{programs:?}: {said}");
        server.join().unwrap();
        let fetched = std::fs::read(home.path().join("bundle/bundle.tar.gz")).unwrap();
        assert!(
            fetched == bundle,
            "{programs:?} after {:?}",
            started.elapsed()
        );
        let used = std::fs::read_to_string(home.path().join("used")).unwrap();
        assert_eq!(used.trim(), expected);
    }
}

/// An HTTP server for one answer.
fn serve_once(body: Vec<u8>) -> (String, std::thread::JoinHandle<()>) {
    use std::io::BufRead as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/x?X-Amz-Signature=1&b=%2F",
        listener.local_addr().unwrap()
    );
    let server = std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(
            first.starts_with("GET /x?X-Amz-Signature=1&b=%2F "),
            "{first}"
        );
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    });
    (url, server)
}

/// Requests about objects of a bake that goes well, with their numbers.
async fn object_requests() -> Vec<(usize, String)> {
    let Some(served) = Served::new().await else {
        return Vec::new();
    };
    let world = &served.world;
    let plan = world.plan(&world.target().await).await;
    world.wire.fail(Fault::None);
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let all = world.wire.operations().into_iter().enumerate();
    let found: Vec<_> = all.filter(|(_, name)| name.ends_with("Object")).collect();
    assert_eq!(found.len(), 4);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_request_about_an_object_none_is_left_in_the_end() {
    for (number, operation) in object_requests().await {
        for fault in [
            Fault::Refuse(number),
            Fault::CutOff(number),
            Fault::HangBefore(number),
            Fault::HangAfter(number),
            Fault::Lose(number),
        ] {
            let context = format!("{operation} (request {number}), {fault:?}");
            let served = Served::new().await.unwrap();
            let world = &served.world;
            let plan = world.plan(&world.target().await).await;
            world.wire.fail(fault);
            // Dropping the bake is what `kill -9` leaves.
            let outcome = tokio::select! {
                outcome = world.bake(&plan, Cancel::never(), &()) => Some(outcome),
                () = world.wire.hung.notified() => None,
            };
            world.wire.fail(Fault::None);
            if let Some(Err(error)) = &outcome {
                let left: Vec<_> = error.left_over.iter().map(|left| left.id.clone()).collect();
                let keys = served.keys().await;
                assert_eq!(
                    left.iter().any(|id| id.starts_with("s3://")),
                    !keys.is_empty(),
                    "{context}: {left:?}, {keys:?}"
                );
            }
            if matches!(fault, Fault::Lose(_)) {
                assert!(matches!(outcome, Some(Ok(_))), "{context}: {outcome:?}");
            }
            world.undo_dead_runs().await;
            assert_eq!(served.keys().await, [] as [String; 0], "{context}");
            assert_all_or_nothing(world, &context).await;
        }
    }
}
