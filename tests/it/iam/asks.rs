//! What IAM is asked about a request: each action on each resource, with the context that AWS puts beside it.
//!
//! Which types of resources and which keys come with an action is as the Service Authorization Reference says ("Actions,
//! resources, and condition keys for Amazon EC2", "… for AWS Systems Manager", "… for Amazon EC2 Auto Scaling", "… for
//! Amazon S3", "… for AWS Identity and Access Management").

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use piaas_bake::aws::Clients;
use piaas_bake::localcloud::{ACCOUNT_ID, DEFAULT_REGION};
use serde_json::Value;

/// Keys and their values; names of keys are in lower case, as IAM compares them.
pub type Context = BTreeMap<String, Vec<String>>;
type Params = BTreeMap<String, String>;

/// One question: may this action be done to this?
#[derive(Debug, Clone)]
pub struct Ask {
    pub action: String,
    pub resource: String,
    pub context: Context,
}

/// A request of which nobody knows what IAM is asked: to be added here.
#[derive(Debug)]
pub struct Unknown(pub String);

/// A request, as far as it matters.
struct Request<'a> {
    clients: &'a Clients,
    service: String,
    operation: String,
    params: Params,
    json: Value,
    path: String,
}

/// The questions about a request. Resources that do not exist are in none: the service says so itself.
pub async fn of(clients: &Clients, request: &http::Request<Bytes>) -> Result<Vec<Ask>, Unknown> {
    let request = Request::read(clients, request);
    match request.service.as_str() {
        // No permission is needed for it (AWS STS API Reference, `GetCallerIdentity`).
        "sts" if request.operation == "GetCallerIdentity" => Ok(Vec::new()),
        "ec2" => request.ec2().await,
        "ssm" => request.ssm().await,
        "autoscaling" => request.autoscaling().await,
        "s3" => request.s3(),
        _ => Err(request.unknown()),
    }
}

fn ask(action: &str, resource: impl Into<String>) -> Ask {
    Ask {
        action: action.to_owned(),
        resource: resource.into(),
        context: Context::new(),
    }
}

impl Ask {
    fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        let values = self.context.entry(key.to_lowercase()).or_default();
        values.push(value.into());
        self
    }

    fn with_some(self, key: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Tags of what is asked about, or in the request.
    fn tagged(self, whose: &str, tags: &Params) -> Self {
        let tags = tags.iter();
        let mut all = tags.fold(self, |ask, (key, value)| {
            ask.with(&format!("aws:{whose}Tag/{key}"), value)
        });
        if whose == "Request" {
            let keys: Vec<String> = all
                .context
                .keys()
                .filter_map(|key| key.strip_prefix("aws:requesttag/").map(str::to_owned))
                .collect();
            if !keys.is_empty() {
                all.context.insert("aws:tagkeys".to_owned(), keys);
            }
        }
        all
    }
}

fn ec2(kind: &str, id: &str) -> String {
    let account = match kind {
        "image" | "snapshot" => "",
        _ => ACCOUNT_ID,
    };
    format!("arn:aws:ec2:{DEFAULT_REGION}:{account}:{kind}/{id}")
}

fn parameter(name: &str) -> String {
    let account = if name.starts_with("/aws/") {
        ""
    } else {
        ACCOUNT_ID
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    format!("arn:aws:ssm:{DEFAULT_REGION}:{account}:parameter/{name}")
}

fn kind_of(id: &str) -> Option<&'static str> {
    let kinds = [
        ("i-", "instance"),
        ("ami-", "image"),
        ("snap-", "snapshot"),
        ("sg-", "security-group"),
        ("vol-", "volume"),
        ("lt-", "launch-template"),
    ];
    let found = kinds.iter().find(|(start, _)| id.starts_with(start));
    found.map(|(_, kind)| *kind)
}

impl<'a> Request<'a> {
    fn read(clients: &'a Clients, request: &http::Request<Bytes>) -> Self {
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        // `Credential=<key>/<date>/<region>/<service>/aws4_request`, in a header or, of a URL that is lent, in its query.
        let signed = header("authorization").unwrap_or_default().to_owned()
            + &request
                .uri()
                .query()
                .unwrap_or_default()
                .replace("%2F", "/");
        let before = signed.split("/aws4_request").next().unwrap_or_default();
        let service = before.rsplit('/').next().unwrap_or_default().to_owned();
        let params: Params = form_urlencoded::parse(request.body())
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        let target = header("x-amz-target").and_then(|target| target.rsplit('.').next());
        let operation = target.or(params.get("Action").map(String::as_str));
        Self {
            clients,
            service,
            operation: operation.unwrap_or(request.method().as_str()).to_owned(),
            json: serde_json::from_slice(request.body()).unwrap_or_default(),
            params,
            path: request.uri().to_string(),
        }
    }

    fn unknown(&self) -> Unknown {
        Unknown(format!("{}:{} {}", self.service, self.operation, self.path))
    }

    fn action(&self) -> String {
        format!("{}:{}", self.service, self.operation)
    }

    fn param(&self, name: &str) -> Option<&String> {
        self.params.get(name)
    }

    /// `Name.1`, `Name.2`, …
    fn list(&self, name: &str) -> Vec<&String> {
        (1..)
            .map_while(|number| self.param(&format!("{name}.{number}")))
            .collect()
    }

    fn strings(&self, name: &str) -> Vec<&str> {
        let all = self.json[name].as_array().map(Vec::as_slice);
        all.unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
            .collect()
    }

    fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    /// The tags that what is made gets, by type.
    fn specified(&self) -> BTreeMap<String, Params> {
        let mut all = BTreeMap::new();
        for number in 1.. {
            let name = format!("TagSpecification.{number}");
            let Some(kind) = self.param(&format!("{name}.ResourceType")) else {
                return all;
            };
            all.insert(kind.clone(), self.tags(&name));
        }
        all
    }

    fn tags(&self, name: &str) -> Params {
        let prefix = if name.is_empty() {
            "Tag".to_owned()
        } else {
            format!("{name}.Tag")
        };
        let tag = |number: usize| {
            let part = |part: &str| self.param(&format!("{prefix}.{number}.{part}")).cloned();
            Some((part("Key")?, part("Value").unwrap_or_default()))
        };
        (1..).map_while(tag).collect()
    }

    /// Whether something of this id exists that has no tags.
    async fn exists(&self, id: &str) -> bool {
        let ec2 = &self.clients.ec2;
        match kind_of(id).unwrap_or_default() {
            "instance" => ec2
                .describe_instances()
                .instance_ids(id)
                .send()
                .await
                .is_ok(),
            "image" => {
                let answer = ec2.describe_images().image_ids(id).send().await;
                answer.is_ok_and(|page| !page.images().is_empty())
            }
            "snapshot" => ec2
                .describe_snapshots()
                .snapshot_ids(id)
                .send()
                .await
                .is_ok(),
            "security-group" => {
                let call = ec2.describe_security_groups().group_ids(id);
                call.send().await.is_ok()
            }
            _ => true,
        }
    }

    /// The tags of those of these that exist, by id.
    async fn tags_of(&self, ids: &[&String]) -> BTreeMap<String, Params> {
        let mut found: BTreeMap<String, Params> = BTreeMap::new();
        if ids.is_empty() {
            return found;
        }
        let filter = aws_sdk_ec2::types::Filter::builder().name("resource-id");
        let values = ids.iter().map(|id| (*id).clone()).collect();
        let filter = filter.set_values(Some(values)).build();
        let mut pages = self.clients.ec2.describe_tags().filters(filter);
        pages = pages.max_results(1000);
        let answer = pages.send().await.unwrap();
        for tag in answer.tags() {
            let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
            let tags = found.entry(part(tag.resource_id())).or_default();
            tags.insert(part(tag.key()), part(tag.value()));
        }
        for id in ids {
            if !found.contains_key(*id) && self.exists(id).await {
                found.insert((*id).clone(), Params::new());
            }
        }
        found
    }

    /// The action on what exists of these.
    async fn on_all<'i>(&self, ids: impl IntoIterator<Item = &'i String>) -> Vec<Ask> {
        let ids: Vec<&String> = ids.into_iter().collect();
        let tags = self.tags_of(&ids).await.into_iter();
        tags.filter_map(|(id, tags)| {
            let arn = ec2(kind_of(&id)?, &id);
            Some(ask(&self.action(), arn).tagged("Resource", &tags))
        })
        .collect()
    }

    /// Tags that come with what is made are a `CreateTags` of their own (EC2 User Guide, "Grant permission to tag Amazon
    /// EC2 resources during creation").
    fn tagging(&self) -> Vec<Ask> {
        let specified = self.specified().into_iter();
        specified
            .map(|(kind, tags)| {
                ask("ec2:CreateTags", ec2(&kind, "*"))
                    .tagged("Request", &tags)
                    .with("ec2:CreateAction", &self.operation)
            })
            .collect()
    }

    async fn ec2(&self) -> Result<Vec<Ask>, Unknown> {
        let action = self.action();
        let specified = self.specified();
        let made = |kind: &str| {
            let tags = specified.get(kind).cloned().unwrap_or_default();
            ask(&action, ec2(kind, "*")).tagged("Request", &tags)
        };
        let mut asks = match self.operation.as_str() {
            name if name.starts_with("Describe") => vec![ask(&action, "*")],
            "RunInstances" => self.launch().await,
            "CreateImage" => {
                let instance = self.param("InstanceId").into_iter();
                let mut asks = self.on_all(instance).await;
                asks.extend(["image", "snapshot"].map(made));
                asks
            }
            "CreateSecurityGroup" => {
                let vpc = self.param("VpcId").map_or("vpc-default", String::as_str);
                vec![made("security-group"), ask(&action, ec2("vpc", vpc))]
            }
            "CreateTags" => {
                let tags = self.tags("");
                let asks = self.on_all(self.list("ResourceId")).await.into_iter();
                return Ok(asks.map(|ask| ask.tagged("Request", &tags)).collect());
            }
            "StopInstances" | "TerminateInstances" => self.on_all(self.list("InstanceId")).await,
            "DeregisterImage" => self.on_all(self.param("ImageId")).await,
            "DeleteSnapshot" => self.on_all(self.param("SnapshotId")).await,
            "DeleteSecurityGroup" => self.on_all(self.param("GroupId")).await,
            "CreateLaunchTemplateVersion" | "DeleteLaunchTemplateVersions" => {
                self.on_all(self.param("LaunchTemplateId")).await
            }
            _ => return Err(self.unknown()),
        };
        asks.extend(self.tagging());
        Ok(asks)
    }

    /// What a launch uses and makes. What a launch template says is taken from there.
    async fn launch(&self) -> Vec<Ask> {
        let action = self.action();
        let specified = self.specified();
        let given = |name: &str| self.param(name);
        let template = given("LaunchTemplate.LaunchTemplateId");
        let tags = |kind: &str| specified.get(kind).cloned().unwrap_or_default();
        let on = |kind: &str, id: &str| ask(&action, ec2(kind, id));
        let profile = given("IamInstanceProfile.Name")
            .map(|name| format!("arn:aws:iam::{ACCOUNT_ID}:instance-profile/{name}"));
        let flag = given("BlockDeviceMapping.1.Ebs.Encrypted").map_or("false", String::as_str);
        let mut asks = vec![
            on("instance", "*")
                .tagged("Request", &tags("instance"))
                .with_some("ec2:InstanceType", given("InstanceType"))
                .with_some(
                    "ec2:MetadataHttpTokens",
                    given("MetadataOptions.HttpTokens"),
                )
                .with_some(
                    "ec2:MetadataHttpEndpoint",
                    given("MetadataOptions.HttpEndpoint"),
                )
                .with_some(
                    "ec2:MetadataHttpPutResponseHopLimit",
                    given("MetadataOptions.HttpPutResponseHopLimit"),
                )
                .with_some("ec2:InstanceProfile", profile.clone()),
            on("volume", "*")
                .tagged("Request", &tags("volume"))
                .with("ec2:Encrypted", flag)
                .with_some(
                    "ec2:VolumeType",
                    given("BlockDeviceMapping.1.Ebs.VolumeType"),
                ),
            on("network-interface", "*").tagged("Request", &tags("network-interface")),
            on(
                "subnet",
                given("SubnetId").map_or("subnet-default", String::as_str),
            ),
        ];
        match given("ImageId") {
            Some(id) => asks.extend(self.on_all([id]).await),
            None => asks.push(on("image", "ami-of-the-template")),
        }
        let groups = self.list("SecurityGroupId");
        if groups.is_empty() {
            asks.push(on("security-group", "sg-default"));
        }
        asks.extend(self.on_all(groups).await);
        if let Some(id) = template {
            asks.extend(self.on_all([id]).await);
            let arn = ec2("launch-template", id);
            let all = asks.into_iter();
            asks = all
                .map(|ask| ask.with("ec2:LaunchTemplate", &arn))
                .collect();
        }
        asks.extend(profile.map(|_| role()));
        asks
    }

    async fn ssm(&self) -> Result<Vec<Ask>, Unknown> {
        let action = self.action();
        let named = |names: Vec<&str>| {
            let names = names.into_iter();
            names.map(|name| ask(&action, parameter(name))).collect()
        };
        Ok(match self.operation.as_str() {
            "GetParameter" | "PutParameter" | "DeleteParameter" => named(vec![self.text("Name")]),
            "GetParameters" | "DeleteParameters" => named(self.strings("Names")),
            "GetParametersByPath" => named(vec![self.text("Path")]),
            "DescribeParameters"
            | "DescribeInstanceInformation"
            | "GetCommandInvocation"
            | "ListCommandInvocations" => vec![ask(&action, "*")],
            "SendCommand" => {
                let name = self.text("DocumentName");
                let document = format!("arn:aws:ssm:{DEFAULT_REGION}::document/{name}");
                let ids: Vec<String> = self
                    .strings("InstanceIds")
                    .into_iter()
                    .map(str::to_owned)
                    .collect();
                let mut asks = self.on_all(&ids).await;
                asks.push(ask(&action, document));
                asks
            }
            _ => return Err(self.unknown()),
        })
    }

    async fn autoscaling(&self) -> Result<Vec<Ask>, Unknown> {
        let action = self.action();
        let group = |name: &str| {
            let id = "00000000-0000-0000-0000-000000000000";
            format!(
                "arn:aws:autoscaling:{DEFAULT_REGION}:{ACCOUNT_ID}:autoScalingGroup:{id}:autoScalingGroupName/{name}"
            )
        };
        let on = |name: &str| ask(&action, group(name));
        let named = self
            .param("AutoScalingGroupName")
            .map_or("", String::as_str);
        Ok(match self.operation.as_str() {
            name if name.starts_with("Describe") => vec![ask(&action, "*")],
            "CancelInstanceRefresh" | "RollbackInstanceRefresh" | "LaunchInstances" => {
                vec![on(named)]
            }
            "StartInstanceRefresh" | "UpdateAutoScalingGroup" => {
                let mut asks = vec![on(named)];
                let key = "LaunchTemplate.LaunchTemplateId";
                let template = self.params.iter().find(|(name, _)| name.ends_with(key));
                if let Some((_, id)) = template {
                    asks.extend(launches_of(id));
                }
                asks
            }
            "TerminateInstanceInAutoScalingGroup" => {
                let ids = self.param("InstanceId").into_iter().collect::<Vec<_>>();
                let tags = self.tags_of(&ids).await.into_values();
                let names = tags.filter_map(|tags| tags.get("aws:autoscaling:groupName").cloned());
                names.map(|name| on(&name)).collect()
            }
            _ => return Err(self.unknown()),
        })
    }

    fn s3(&self) -> Result<Vec<Ask>, Unknown> {
        // http://host/bucket/key?query
        let uri: http::Uri = self.path.parse().expect("it was one");
        let path = uri.path().trim_start_matches('/');
        let query = uri.query().unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let on = |action: &str| vec![ask(action, format!("arn:aws:s3:::{bucket}/{key}"))];
        Ok(match (self.operation.as_str(), key) {
            ("GET", "") => {
                let mut query = form_urlencoded::parse(query.as_bytes());
                let prefix = query.find(|(key, _)| key == "prefix");
                let bucket = ask("s3:ListBucket", format!("arn:aws:s3:::{bucket}"));
                vec![bucket.with_some("s3:prefix", prefix.map(|(_, value)| value))]
            }
            ("GET" | "HEAD", _) => on("s3:GetObject"),
            ("PUT", key) if !key.is_empty() => on("s3:PutObject"),
            ("DELETE", key) if !key.is_empty() => on("s3:DeleteObject"),
            _ => return Err(self.unknown()),
        })
    }
}

/// The role of a profile, which is passed to the machines.
fn role() -> Ask {
    let role = format!("arn:aws:iam::{ACCOUNT_ID}:role/of-the-profile");
    ask("iam:PassRole", role).with("iam:PassedToService", "ec2.amazonaws.com")
}

/// Whoever gives a group a template has to be allowed to launch from it, with its role (Amazon EC2 Auto Scaling User Guide,
/// "Control Amazon EC2 launch template usage in Auto Scaling groups").
fn launches_of(template: &str) -> Vec<Ask> {
    let arn = ec2("launch-template", template);
    let kinds = [
        "image",
        "instance",
        "network-interface",
        "security-group",
        "subnet",
        "volume",
    ];
    let mut asks: Vec<Ask> = kinds
        .iter()
        .map(|kind| ask("ec2:RunInstances", ec2(kind, "of-the-template")))
        .collect();
    asks.push(ask("ec2:RunInstances", arn.clone()));
    let asks = asks.into_iter();
    let mut asks: Vec<Ask> = asks
        .map(|ask| ask.with("ec2:LaunchTemplate", &arn))
        .collect();
    asks.push(role());
    asks
}

/// The types of resources that each action is about; none: it knows only all of them at once.
pub fn types_of(action: &str) -> Option<BTreeSet<&'static str>> {
    let types: &[&str] = match action {
        "ec2:RunInstances" => &[
            "image",
            "instance",
            "launch-template",
            "network-interface",
            "security-group",
            "subnet",
            "volume",
        ],
        "ec2:CreateImage" => &["image", "instance", "snapshot"],
        "ec2:CreateSecurityGroup" => &["security-group", "vpc"],
        "ec2:CreateTags" => &[
            "image",
            "instance",
            "network-interface",
            "security-group",
            "snapshot",
            "volume",
        ],
        "ec2:StopInstances" | "ec2:TerminateInstances" => &["instance"],
        "ec2:DeregisterImage" => &["image"],
        "ec2:DeleteSnapshot" => &["snapshot"],
        "ec2:DeleteSecurityGroup" => &["security-group"],
        "ec2:CreateLaunchTemplateVersion" | "ec2:DeleteLaunchTemplateVersions" => {
            &["launch-template"]
        }
        "ssm:GetParameter"
        | "ssm:GetParameters"
        | "ssm:GetParametersByPath"
        | "ssm:PutParameter"
        | "ssm:DeleteParameter"
        | "ssm:DeleteParameters" => &["parameter"],
        "ssm:SendCommand" => &["document", "instance"],
        "imagebuilder:GetImage" => &["image"],
        "autoscaling:StartInstanceRefresh"
        | "autoscaling:CancelInstanceRefresh"
        | "autoscaling:RollbackInstanceRefresh"
        | "autoscaling:UpdateAutoScalingGroup"
        | "autoscaling:LaunchInstances"
        | "autoscaling:TerminateInstanceInAutoScalingGroup" => &["autoScalingGroup"],
        "iam:PassRole" => &["role"],
        "s3:GetObject" | "s3:PutObject" | "s3:DeleteObject" => &["object"],
        "s3:ListBucket" => &["bucket"],
        "ec2:DescribeImages"
        | "ec2:DescribeInstances"
        | "ec2:DescribeLaunchTemplateVersions"
        | "ec2:DescribeSecurityGroups"
        | "ec2:DescribeSnapshots"
        | "ec2:DescribeSubnets"
        | "ssm:DescribeInstanceInformation"
        | "ssm:DescribeParameters"
        | "ssm:GetCommandInvocation"
        | "ssm:ListCommandInvocations"
        | "autoscaling:DescribeAutoScalingGroups"
        | "autoscaling:DescribeInstanceRefreshes" => &[],
        _ => return None,
    };
    Some(types.iter().copied().collect())
}
