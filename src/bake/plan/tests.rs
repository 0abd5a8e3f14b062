//! Plans over surveys of what exists.

use super::super::images::tests::image;
use super::*;
use crate::image::leaks::Action;

fn script(id: &str) -> Script {
    Script {
        id: id.into(),
        title: format!("do {id}"),
        text: "true\n".into(),
        env: BTreeMap::new(),
        timeout: Duration::from_secs(60),
        retries: 0,
        reboot: false,
    }
}

pub fn layer(recipe: &str, digest: char) -> LayerPlan {
    let version = Version::new(1, 0, 0);
    LayerPlan {
        recipe: recipe.into(),
        version: version.clone(),
        digest: digest.to_string().repeat(64),
        manifest_json: "{}".into(),
        layer: Layer {
            provision: vec![script(&format!("{recipe}/step-001-a"))],
            validate: vec![script(&format!("{recipe}/validate-001-a"))],
            test: vec![script(&format!("{recipe}/test-001-a"))],
            payloads: BTreeMap::from([(format!("{recipe}-sha"), vec![1].into())]),
            ..Layer::new(recipe, version)
        },
    }
}

pub fn target() -> Target {
    Target {
        description: "A worker.".into(),
        base: image("ami-base", "debian", &[]),
        layers: vec![
            layer("debian-base", 'a'),
            layer("ci-base", 'b'),
            layer("ci-worker", 'c'),
        ],
        image: ImageSpec {
            size_gib: 8,
            filesystem: "ext4".into(),
            architecture: "x86_64".into(),
            boot_mode: "uefi".into(),
        },
        build: BuildSpec {
            instance_types: vec!["t3.medium".into()],
            subnets: vec![],
            security_groups: vec![],
            instance_profile: None,
            timeout: Duration::from_secs(3600),
            max_age: Duration::from_secs(14 * 24 * 3600),
        },
        force: false,
        channel: Channel::Latest,
        by_step: true,
    }
}

fn ready(id: &str, digest: char) -> Image {
    let digest = digest.to_string().repeat(64);
    image(
        id,
        "an-image",
        &[(tags::DIGEST, &digest), (tags::STATUS, tags::STATUS_READY)],
    )
}

fn now() -> Timestamp {
    "2026-01-01T00:30:00Z".parse().unwrap()
}

pub fn bake(target: &Target, survey: &Survey) -> Plan {
    match plan(target, survey, now()).unwrap() {
        Decision::Bake(plan) => *plan,
        Decision::AlreadyBaked(image) => panic!("already baked: {}", image.id),
    }
}

fn ids(scripts: &[Script]) -> Vec<&str> {
    scripts.iter().map(|script| script.id.as_str()).collect()
}

const NAME: &str = "ci-worker-1.0.0-cccccccccccc";

#[test]
fn dnf_is_refused_on_debian() {
    let mut target = target();
    target.base.name = "debian-12-amd64-local".into();
    target.layers[1].layer.manager = Manager::Dnf;
    assert!(plan(&target, &Survey::default(), now()).is_ok());
    target.layers[1].layer.packages = vec!["git".into()];
    let error = plan(&target, &Survey::default(), now()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("ci-base installs its packages with dnf")
    );
    target.base.name = "al2023-ami-2023.1-x86_64".into();
    assert!(plan(&target, &Survey::default(), now()).is_ok());
}

#[test]
fn nothing_exists_so_everything_runs_on_the_base() {
    let plan = bake(&target(), &Survey::default());
    assert_eq!(plan.start.image.id, "ami-base");
    assert_eq!(
        plan.layers,
        ["debian-base 1.0.0", "ci-base 1.0.0", "ci-worker 1.0.0"]
    );
    assert_eq!(ids(&plan.steps).len(), 3);
    assert_eq!(plan.image_name, NAME);
}

#[test]
fn the_deepest_ready_ancestor_is_the_start_but_all_checks_run() {
    let survey = Survey {
        of_line: vec![ready("ami-a", 'a'), ready("ami-b", 'b')],
        ..Survey::default()
    };
    let mut target = target();
    for layer in &mut target.layers {
        let path = format!("/srv/{}", layer.recipe);
        let action = Action::Gone;
        layer.layer.sealed.push(Sealed { path, action });
    }
    let plan = bake(&target, &survey);
    assert_eq!(
        (plan.start.image.id.as_str(), plan.start.layers),
        ("ami-b", 2)
    );
    let sealed: Vec<&str> = plan.sealed.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        sealed,
        ["/srv/debian-base", "/srv/ci-base", "/srv/ci-worker"]
    );
    assert_eq!(ids(&plan.steps), ["ci-worker/step-001-a"]);
    assert_eq!(plan.validate.len(), 3);
    assert_eq!(plan.test.len(), 3);
}

#[test]
fn an_ancestor_that_is_not_ready_is_passed_over() {
    let mut unfinished = ready("ami-b", 'b');
    unfinished.state = "pending".into();
    let survey = Survey {
        of_line: vec![unfinished, ready("ami-a", 'a')],
        ..Survey::default()
    };
    assert_eq!(bake(&target(), &survey).start.image.id, "ami-a");
}

#[test]
fn a_ready_image_ends_it_unless_forced() {
    let mut named = ready("ami-c", 'c');
    named.name = NAME.into();
    let survey = Survey {
        of_line: vec![named.clone()],
        named: vec![named],
        ..Survey::default()
    };
    assert!(matches!(
        plan(&target(), &survey, now()).unwrap(),
        Decision::AlreadyBaked(image) if image.id == "ami-c"
    ));
    let forced = bake(
        &Target {
            force: true,
            ..target()
        },
        &survey,
    );
    assert_eq!(forced.image_name, format!("{NAME}-2"));
    assert_eq!(forced.stale, []);
}

fn unfinished(run: &str) -> Image {
    let tags: &[(&str, &str)] = if run.is_empty() {
        &[]
    } else {
        &[(tags::RUN, run)]
    };
    image("ami-u", NAME, tags)
}

fn with_run(state: Option<RunState>) -> Survey {
    let runs = state.map(|state| {
        (
            "r1".to_owned(),
            KnownRun {
                state,
                digest: "other".into(),
            },
        )
    });
    Survey {
        named: vec![unfinished("r1")],
        runs: runs.into_iter().collect(),
        ..Survey::default()
    }
}

#[test]
fn a_candidate_is_not_taken_for_the_latest_while_there_is_another() {
    let taken = |channel, channels: &[(Channel, &str)]| {
        let survey = Survey {
            // Newest first.
            of_line: vec![ready("ami-new", 'c'), ready("ami-old", 'c')],
            channels: channels
                .iter()
                .map(|(channel, id)| (*channel, (*id).to_owned()))
                .collect(),
            ..Survey::default()
        };
        let target = Target {
            channel,
            ..target()
        };
        match plan(&target, &survey, now()).unwrap() {
            Decision::AlreadyBaked(image) => image.id,
            Decision::Bake(_) => panic!("it is baked"),
        }
    };
    use Channel::{Candidate, Latest};
    assert_eq!(taken(Latest, &[]), "ami-new");
    assert_eq!(taken(Latest, &[(Candidate, "ami-new")]), "ami-old");
    assert_eq!(taken(Latest, &[(Latest, "ami-old")]), "ami-old");
    assert_eq!(
        taken(Latest, &[(Latest, "ami-new"), (Candidate, "ami-new")]),
        "ami-new"
    );
    assert_eq!(taken(Candidate, &[(Latest, "ami-old")]), "ami-new");
}

#[test]
fn an_image_stands_on_what_its_parent_stands_on() {
    let mut parent = ready("ami-b", 'b');
    parent
        .tags
        .insert(tags::BASE_IMAGE.into(), "ami-older-base".into());
    let survey = Survey {
        of_line: vec![parent],
        ..Survey::default()
    };
    assert_eq!(bake(&target(), &survey).root_image(), "ami-older-base");
    assert_eq!(bake(&target(), &Survey::default()).root_image(), "ami-base");
}

#[test]
fn an_unfinished_image_is_stale_only_when_its_run_is_over() {
    assert_eq!(
        bake(&target(), &with_run(Some(RunState::Dead))).stale.len(),
        1
    );
    assert_eq!(
        bake(&target(), &with_run(Some(RunState::Finished)))
            .stale
            .len(),
        1
    );
    // Nobody here knows the run: it may live on another host for as long as a bake may take.
    for state in [Some(RunState::Alive), None] {
        let waits = bake(&target(), &with_run(state));
        assert_eq!(waits.held.as_deref(), Some("r1"));
        assert_eq!(waits.stale, []);
    }
    let later: Timestamp = "2026-01-01T01:00:01Z".parse().unwrap();
    let Ok(Decision::Bake(late)) = plan(&target(), &with_run(None), later) else {
        panic!("it is to be baked");
    };
    assert_eq!((late.held, late.stale.len()), (None, 1));
}

#[test]
fn a_foreign_image_of_our_name_is_not_touched() {
    let survey = Survey {
        named: vec![unfinished("")],
        ..Survey::default()
    };
    assert!(matches!(
        plan(&target(), &survey, now()),
        Err(PlanError::NameTaken { .. })
    ));
}

#[test]
fn a_digest_that_is_being_baked_is_held() {
    let runs = BTreeMap::from([(
        "r9".to_owned(),
        KnownRun {
            state: RunState::Alive,
            digest: "c".repeat(64),
        },
    )]);
    let survey = Survey {
        runs,
        ..Survey::default()
    };
    let waits = bake(&target(), &survey);
    assert_eq!(waits.held.as_deref(), Some("r9"));
}

#[test]
fn a_disk_smaller_than_its_start_image_is_refused() {
    let mut small = target();
    small.image.size_gib = 4;
    assert!(matches!(
        plan(&small, &Survey::default(), now()),
        Err(PlanError::TooSmall {
            needs: 8,
            has: 4,
            ..
        })
    ));
}
