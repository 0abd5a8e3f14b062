//! What is behind the wire: launch template versions, instances, refreshes and commands of one group, as a model that
//! moves with the clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::wire::Fault;

pub const GROUP: &str = "workers";
pub const TEMPLATE: &str = "lt-0123456789abcdef0";
/// The refresh replaces one instance in this time.
const PACE: SignedDuration = SignedDuration::from_secs(20);
/// A refresh that only protected instances block fails after this time.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Clone)]
pub struct Machine {
    pub version: u64,
    pub state: &'static str,
    pub in_group: bool,
    pub healthy: bool,
    /// Protected, and at work, until then.
    pub busy_until: Timestamp,
    pub cordoned: Option<u64>,
    tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct Refresh {
    pub id: String,
    pub status: &'static str,
    pub reason: String,
    pub to: u64,
    from: u64,
    started: Timestamp,
    moved: Timestamp,
}

/// Everything behind the wire.
#[derive(Debug)]
pub struct Model {
    pub machines: BTreeMap<String, Machine>,
    /// Number, image, description.
    pub versions: BTreeMap<u64, (String, String)>,
    pub group_version: String,
    pub refreshes: Vec<Refresh>,
    /// Instances of this version fail their checks from now on.
    pub bad: Option<u64>,
    /// New instances of this version become unhealthy in the group.
    pub dying: Option<u64>,
    /// The canary takes a job of this length when it is launched.
    pub canary_job: SignedDuration,
    /// `RollbackInstanceRefresh` is refused.
    pub irreversible: bool,
    /// Somebody else's user data is in each new version.
    pub meddled: bool,
    /// Jobs that a termination ended.
    pub killed: Vec<String>,
    tokens: BTreeMap<String, String>,
    commands: BTreeMap<String, (String, String)>,
    serial: u32,
    pub operations: Vec<String>,
    pub fault: Fault,
}

pub type Params = BTreeMap<String, String>;

impl Model {
    pub fn new(now: Timestamp, busy: &[i64]) -> Self {
        let mut machines = BTreeMap::new();
        for (number, minutes) in busy.iter().enumerate() {
            let mut machine = Machine::new(3, true);
            machine.busy_until = now + SignedDuration::from_mins(*minutes);
            machines.insert(format!("i-old{number}"), machine);
        }
        Self {
            machines,
            versions: BTreeMap::from([(3, ("ami-old".to_owned(), String::new()))]),
            group_version: "3".to_owned(),
            refreshes: Vec::new(),
            bad: None,
            dying: None,
            canary_job: SignedDuration::ZERO,
            irreversible: false,
            meddled: false,
            killed: Vec::new(),
            tokens: BTreeMap::new(),
            commands: BTreeMap::new(),
            serial: 0,
            operations: Vec::new(),
            fault: Fault::None,
        }
    }

    fn next_id(&mut self, prefix: &str) -> String {
        self.serial += 1;
        format!("{prefix}{:08}", self.serial)
    }

    pub fn members(&self) -> impl Iterator<Item = (&String, &Machine)> {
        self.machines
            .iter()
            .filter(|(_, one)| one.in_group && one.state != "terminated")
    }

    pub fn live_canaries(&self) -> Vec<&String> {
        let canaries = self.machines.iter();
        canaries
            .filter(|(_, one)| !one.in_group && one.state != "terminated")
            .map(|(id, _)| id)
            .collect()
    }

    pub fn count(&self, operation: &str) -> usize {
        self.operations
            .iter()
            .filter(|one| *one == operation)
            .count()
    }

    fn active(&mut self) -> Option<&mut Refresh> {
        self.refreshes
            .iter_mut()
            .find(|one| matches!(one.status, "Pending" | "InProgress" | "RollbackInProgress"))
    }

    fn end(&mut self, id: &str, now: Timestamp) {
        let machine = self.machines.get_mut(id).unwrap();
        if machine.busy_until > now {
            self.killed.push(id.to_owned());
        }
        machine.state = "terminated";
    }

    /// The refresh under way replaces what it may.
    pub fn advance(&mut self, now: Timestamp) {
        while let Some(refresh) = self.active().map(|one| one.clone()) {
            let at = refresh.moved + PACE;
            if at > now {
                return;
            }
            self.active().unwrap().moved = at;
            let back = refresh.status == "RollbackInProgress";
            let to = if back { refresh.from } else { refresh.to };
            let wrong = |one: &Machine| one.version != to;
            let next = self
                .members()
                .find(|(_, one)| wrong(one) && one.busy_until <= at)
                .map(|(id, _)| id.clone());
            if let Some(old) = next {
                self.end(&old, at);
                let id = self.next_id("i-new");
                let mut machine = Machine::new(to, true);
                machine.healthy = self.dying != Some(to);
                self.machines.insert(id, machine);
                continue;
            }
            let left = self.members().any(|(_, one)| wrong(one));
            let (status, reason) = match (left, back) {
                (true, _) if at.duration_since(refresh.started) < HOUR => continue,
                (true, true) => ("RollbackFailed", "instances are protected from scale in"),
                (true, false) => ("Failed", "instances are protected from scale in"),
                (false, true) => ("RollbackSuccessful", ""),
                (false, false) => ("Successful", ""),
            };
            if status == "Successful" {
                self.group_version = to.to_string();
            }
            let active = self.active().unwrap();
            (active.status, active.reason) = (status, reason.to_owned());
        }
    }

    fn launch(&mut self, params: &Params, now: Timestamp) -> String {
        let token = &params["ClientToken"];
        let id = match self.tokens.get(token) {
            Some(id) => id.clone(),
            None => {
                let id = self.next_id("i-canary");
                let version = params["LaunchTemplate.Version"].parse().unwrap();
                let mut machine = Machine::new(version, false);
                machine.busy_until = now + self.canary_job;
                for number in 1.. {
                    let key = |what| format!("TagSpecification.1.Tag.{number}.{what}");
                    let Some(name) = params.get(&key("Key")) else {
                        break;
                    };
                    machine
                        .tags
                        .insert(name.clone(), params[&key("Value")].clone());
                }
                self.machines.insert(id.clone(), machine);
                self.tokens.insert(token.clone(), id.clone());
                id
            }
        };
        format!("<instancesSet><item><instanceId>{id}</instanceId></item></instancesSet>")
    }

    fn instances(&self, params: &Params) -> String {
        let mut items = String::new();
        for (id, machine) in &self.machines {
            let matches = (1..)
                .map_while(|number| {
                    params
                        .get(&format!("Filter.{number}.Name"))
                        .zip(Some(number))
                })
                .all(|(name, number)| {
                    let values: Vec<&String> = (1..)
                        .map_while(|value| params.get(&format!("Filter.{number}.Value.{value}")))
                        .collect();
                    let is = |text: &str| values.iter().any(|value| *value == text);
                    match name.as_str() {
                        "instance-id" => is(id),
                        "instance-state-name" => is(machine.state),
                        "tag:aws:ec2launchtemplate:id" => is(TEMPLATE),
                        "tag:aws:ec2launchtemplate:version" => is(&machine.version.to_string()),
                        tag => {
                            let tag = tag.strip_prefix("tag:").expect("a filter that is known");
                            machine.tags.get(tag).is_some_and(|value| is(value))
                        }
                    }
                });
            if matches {
                let image = self
                    .versions
                    .get(&machine.version)
                    .map_or("ami-new", |(image, _)| image.as_str());
                let _ = write!(
                    items,
                    "<item><instancesSet><item><instanceId>{id}</instanceId><imageId>{image}</imageId>\
                     <instanceState><name>{}</name></instanceState></item></instancesSet></item>",
                    machine.state
                );
            }
        }
        format!("<reservationSet>{items}</reservationSet>")
    }

    fn version_items(&self, wanted: Option<&String>) -> String {
        let latest = self.versions.keys().max().copied();
        let number = wanted.map(|one| one.parse::<u64>().ok().or(latest));
        let mut items = String::new();
        for (version, (image, description)) in &self.versions {
            if number.is_none_or(|one| one == Some(*version)) {
                let user_data = if self.meddled && *version > 3 {
                    "<userData>eA==</userData>"
                } else {
                    ""
                };
                let _ = write!(
                    items,
                    "<item><launchTemplateId>{TEMPLATE}</launchTemplateId><versionNumber>{version}</versionNumber>\
                     <versionDescription>{description}</versionDescription><launchTemplateData><imageId>{image}\
                     </imageId><instanceType>t3.micro</instanceType>{user_data}</launchTemplateData></item>"
                );
            }
        }
        items
    }

    fn create_version(&mut self, params: &Params) -> String {
        let token = &params["ClientToken"];
        let number = match self.tokens.get(token) {
            Some(number) => number.clone(),
            None => {
                let number = self.versions.keys().max().unwrap() + 1;
                let data = (
                    params["LaunchTemplateData.ImageId"].clone(),
                    params["VersionDescription"].clone(),
                );
                assert_eq!(params["SourceVersion"], "3");
                self.versions.insert(number, data);
                self.tokens.insert(token.clone(), number.to_string());
                number.to_string()
            }
        };
        format!(
            "<launchTemplateVersion><versionNumber>{number}</versionNumber></launchTemplateVersion>"
        )
    }

    fn group(&self, now: Timestamp) -> String {
        let members: String = self
            .members()
            .map(|(id, one)| {
                format!(
                    "<member><InstanceId>{id}</InstanceId><LifecycleState>InService</LifecycleState><HealthStatus>{}\
                     </HealthStatus><LaunchTemplate><LaunchTemplateId>{TEMPLATE}</LaunchTemplateId><Version>{}\
                     </Version></LaunchTemplate><ProtectedFromScaleIn>{}</ProtectedFromScaleIn></member>",
                    if one.healthy { "Healthy" } else { "Unhealthy" },
                    one.version,
                    one.busy_until > now
                )
            })
            .collect();
        format!(
            "<AutoScalingGroups><member><AutoScalingGroupName>{GROUP}</AutoScalingGroupName><DesiredCapacity>{}\
             </DesiredCapacity><VPCZoneIdentifier>subnet-1,subnet-2</VPCZoneIdentifier><LaunchTemplate>\
             <LaunchTemplateId>{TEMPLATE}</LaunchTemplateId><Version>{}</Version></LaunchTemplate>\
             <Instances>{members}</Instances></member></AutoScalingGroups>",
            self.members().count(),
            self.group_version
        )
    }

    fn refresh_list(&self) -> String {
        let items: String = self
            .refreshes
            .iter()
            .rev()
            .map(|one| {
                format!(
                    "<member><InstanceRefreshId>{}</InstanceRefreshId><Status>{}</Status><StatusReason>{}</StatusReason>\
                     <StartTime>{}</StartTime><DesiredConfiguration><LaunchTemplate><LaunchTemplateId>{TEMPLATE}\
                     </LaunchTemplateId><Version>{}</Version></LaunchTemplate></DesiredConfiguration></member>",
                    one.id, one.status, one.reason, one.started, one.to
                )
            })
            .collect();
        format!("<InstanceRefreshes>{items}</InstanceRefreshes>")
    }

    fn start(&mut self, params: &Params, now: Timestamp) -> Result<String, &'static str> {
        if self.active().is_some() {
            return Err("InstanceRefreshInProgress");
        }
        let preference = |name: &str| {
            params
                .get(&format!("Preferences.{name}"))
                .map(String::as_str)
        };
        assert_eq!(preference("MinHealthyPercentage"), Some("100"));
        assert_eq!(preference("SkipMatching"), Some("true"));
        assert_eq!(preference("ScaleInProtectedInstances"), Some("Wait"));
        assert_eq!(preference("StandbyInstances"), Some("Wait"));
        let id = self.next_id("refresh-");
        let to = params["DesiredConfiguration.LaunchTemplate.Version"]
            .parse()
            .unwrap();
        self.refreshes.push(Refresh {
            id: id.clone(),
            status: "InProgress",
            reason: String::new(),
            to,
            from: self.group_version.parse().unwrap(),
            started: now,
            moved: now,
        });
        Ok(format!("<InstanceRefreshId>{id}</InstanceRefreshId>"))
    }

    fn stop(&mut self, status: &'static str) -> Result<String, &'static str> {
        match self.active() {
            Some(active) => {
                active.status = status;
                Ok(String::new())
            }
            None => Err("ActiveInstanceRefreshNotFound"),
        }
    }

    pub fn form(
        &mut self,
        action: &str,
        params: &Params,
        now: Timestamp,
    ) -> Result<String, &'static str> {
        Ok(match action {
            "DescribeLaunchTemplateVersions" => format!(
                "<launchTemplateVersionSet>{}</launchTemplateVersionSet>",
                self.version_items(params.get("LaunchTemplateVersion.1"))
            ),
            "CreateLaunchTemplateVersion" => self.create_version(params),
            "DeleteLaunchTemplateVersions" => {
                let number: u64 = params["LaunchTemplateVersion.1"].parse().unwrap();
                let used = self.members().any(|(_, one)| one.version == number);
                assert!(!used, "a version in use was deleted");
                self.versions.remove(&number);
                String::new()
            }
            "RunInstances" => self.launch(params, now),
            "DescribeInstances" => self.instances(params),
            "TerminateInstances" => {
                let id = params["InstanceId.1"].clone();
                self.end(&id, now);
                String::new()
            }
            "DescribeImages" => {
                "<imagesSet><item><imageId>ami-old</imageId><architecture>x86_64</architecture>\
                                 </item></imagesSet>"
                    .to_owned()
            }
            "DescribeAutoScalingGroups" => self.group(now),
            "DescribeInstanceRefreshes" => self.refresh_list(),
            "StartInstanceRefresh" => self.start(params, now)?,
            "CancelInstanceRefresh" => self.stop("Cancelled")?,
            "RollbackInstanceRefresh" if self.irreversible => {
                return Err("IrreversibleInstanceRefresh");
            }
            "RollbackInstanceRefresh" => self.stop("RollbackInProgress")?,
            "UpdateAutoScalingGroup" => {
                self.group_version = params["LaunchTemplate.Version"].clone();
                String::new()
            }
            other => panic!("the model does not know {other}"),
        })
    }

    /// Runs a command at once, as far as the roll can tell.
    fn answer_of(&mut self, instance: &str, script: &str, now: Timestamp) -> String {
        let bad = self.bad;
        let machine = self.machines.get_mut(instance).unwrap();
        if let Some(rest) = script.split("cordon --generation ").nth(1) {
            let generation: u64 = rest.split_whitespace().next().unwrap().parse().unwrap();
            machine.cordoned = Some(generation);
            let busy = machine.busy_until > now;
            let drained = if busy {
                "null".to_owned()
            } else {
                format!(r#"{{"generation":{generation},"at":"2026-01-01T00:00:00Z"}}"#)
            };
            let state = if busy { "busy" } else { "idle" };
            return format!(
                r#"{{"schema":"piaas-worker/v1","state":"{state}","since":null,"why":"","cordon":null,"drained":{drained}}}"#
            );
        }
        if script.contains("is-system-running") {
            let verdict = if bad == Some(machine.version) {
                "fail no good"
            } else {
                "pass"
            };
            return format!("piaas-check worker present\npiaas-check {verdict}\n");
        }
        r#"{"schema":"piaas-worker/v1","state":"busy","since":"2026-01-01T12:00:00Z"}"#.to_owned()
    }

    pub fn json(
        &mut self,
        action: &str,
        body: &serde_json::Value,
        now: Timestamp,
    ) -> serde_json::Value {
        match action {
            "SendCommand" => {
                let instance = body["InstanceIds"][0].as_str().unwrap().to_owned();
                let lines = body["Parameters"]["commands"].as_array().unwrap();
                let script: Vec<&str> = lines.iter().map(|line| line.as_str().unwrap()).collect();
                let answer = self.answer_of(&instance, &script.join("\n"), now);
                let id = self.next_id("00000000-0000-0000-0000-0000");
                self.commands.insert(id.clone(), (instance, answer));
                serde_json::json!({ "Command": { "CommandId": id } })
            }
            "GetCommandInvocation" => {
                let (_, answer) = &self.commands[body["CommandId"].as_str().unwrap()];
                serde_json::json!({ "StatusDetails": "Success", "Status": "Success", "ResponseCode": 0,
                    "StandardOutputContent": answer })
            }
            "DescribeInstanceInformation" => {
                serde_json::json!({ "InstanceInformationList": [{ "PingStatus": "Online" }] })
            }
            other => panic!("the model does not know {other}"),
        }
    }
}

impl Machine {
    fn new(version: u64, in_group: bool) -> Self {
        Self {
            version,
            state: "running",
            in_group,
            healthy: true,
            busy_until: Timestamp::UNIX_EPOCH,
            cordoned: None,
            tags: BTreeMap::new(),
        }
    }
}
