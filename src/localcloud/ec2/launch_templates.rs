//! Launch templates: named sets of parameters for `RunInstances`, in numbered versions that never change.
//!
//! Codes of refusals are those of the EC2 API Reference, "Error codes for the Amazon EC2 API". A parameter that no
//! machine here could have is refused when a version is made. Whether what a version names is there, such as its image,
//! its instance type and its security groups, is seen when something is launched from it.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::super::ACCOUNT_ID;
use super::super::engine::Call;
use super::super::state::{LaunchTemplate, State, Tags, TemplateVersion, Token};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::filters::{Filters, Page};
use super::settings::Settings;
use super::tags::{self, Specifications};
use super::{images, invalid_value, is_id, template_data, time};

/// Versions in one `DeleteLaunchTemplateVersions` (botocore, EC2 2016-11-15).
const DELETIONS: usize = 200;
/// Templates or versions on one page.
const PAGE: std::ops::RangeInclusive<usize> = 1..=200;

/// A template, by id or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Id(String),
    Name(String),
}

/// A version of a template, as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub template: Name,
    /// A number, `$Latest` or `$Default`; `None` is the default version.
    pub version: Option<String>,
}

/// What a reference stands for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub id: String,
    pub name: String,
    pub version: u64,
    pub parameters: BTreeMap<String, String>,
}

impl Name {
    /// Takes `LaunchTemplateId` or `LaunchTemplateName`.
    fn take(params: &mut Params) -> Result<Option<Self>, ApiError> {
        let id = params.take("LaunchTemplateId");
        let name = params.take("LaunchTemplateName");
        match (id, name) {
            (Some(_), Some(_)) => Err(ApiError::new(
                "InvalidParameterCombination",
                "Either the launch template ID or the launch template name must be specified, not both.",
            )),
            (Some(id), None) if !is_id("lt", &id) => Err(ApiError::new(
                "InvalidLaunchTemplateId.Malformed",
                format!("The specified launch template ID {id} is malformed."),
            )),
            (Some(id), None) => Ok(Some(Self::Id(id))),
            (None, Some(name)) => Ok(Some(Self::Name(name))),
            (None, None) => Ok(None),
        }
    }

    fn require(params: &mut Params) -> Result<Self, ApiError> {
        Self::take(params)?.ok_or_else(|| {
            ApiError::new(
                "MissingParameter",
                "The request must contain the parameter LaunchTemplateId or LaunchTemplateName",
            )
        })
    }

    fn of<'a>(&self, state: &'a State) -> Result<&'a LaunchTemplate, ApiError> {
        let found = match self {
            Self::Id(id) => state.launch_templates.get(id),
            Self::Name(name) => state
                .launch_templates
                .values()
                .find(|template| template.name == *name),
        };
        found.ok_or_else(|| match self {
            Self::Id(id) => ApiError::new(
                "InvalidLaunchTemplateId.NotFound",
                format!("The specified launch template, with template ID {id}, does not exist."),
            ),
            Self::Name(name) => ApiError::new(
                "InvalidLaunchTemplateName.NotFoundException",
                format!(
                    "The specified launch template, with template name {name}, does not exist."
                ),
            ),
        })
    }
}

impl Reference {
    /// Takes the members of a `LaunchTemplateSpecification`; `None` if it names no template.
    ///
    /// # Errors
    /// Both an id and a name, a malformed id, or a version without a template.
    pub fn take(params: &mut Params) -> Result<Option<Self>, ApiError> {
        let template = Name::take(params)?;
        let version = params.take("Version");
        match template {
            Some(template) => Ok(Some(Self { template, version })),
            None if version.is_some() => Err(ApiError::new(
                "MissingParameter",
                "The request must contain the parameter LaunchTemplateId or LaunchTemplateName",
            )),
            None => Ok(None),
        }
    }
}

impl Resolved {
    /// Tags that EC2 puts on instances of a template (EC2 User Guide, "Launch instances from a launch template").
    #[must_use]
    pub fn system_tags(&self) -> Tags {
        Tags::from([
            ("aws:ec2launchtemplate:id".to_owned(), self.id.clone()),
            (
                "aws:ec2launchtemplate:version".to_owned(),
                self.version.to_string(),
            ),
        ])
    }
}

/// Finds what a reference stands for now.
///
/// # Errors
/// No such template or version.
pub fn resolve(state: &State, reference: &Reference) -> Result<Resolved, ApiError> {
    let template = reference.template.of(state)?;
    let version = number(template, reference.version.as_deref().unwrap_or("$Default"))?;
    Ok(Resolved {
        id: template.id.clone(),
        name: template.name.clone(),
        version,
        parameters: version_of(template, version)?.parameters.clone(),
    })
}

/// The number that a version is written as; whether there is one is another matter.
fn number(template: &LaunchTemplate, version: &str) -> Result<u64, ApiError> {
    match version {
        "$Default" => Ok(template.default_version),
        "$Latest" => Ok(template.latest_version()),
        number => number.parse().map_err(|_| {
            let why = "It must be a version number, $Latest or $Default.";
            invalid_value("LaunchTemplateVersion", number, why)
        }),
    }
}

fn version_of(template: &LaunchTemplate, number: u64) -> Result<&TemplateVersion, ApiError> {
    template
        .versions
        .get(&number)
        .ok_or_else(|| no_version(template, number))
}

fn no_version(template: &LaunchTemplate, number: u64) -> ApiError {
    ApiError::new(
        "InvalidLaunchTemplateId.VersionNotFound",
        format!(
            "Could not find the specified version {number} for the launch template with ID {}.",
            template.id
        ),
    )
}

/// Names have 3 to 128 of these characters (botocore, `LaunchTemplateName`; the error's text in "Error codes").
fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "().-/_".contains(c);
    if (3..=128).contains(&name.chars().count()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(ApiError::new(
            "InvalidLaunchTemplateName.MalformedException",
            "The specified launch template name is invalid. A launch template name must be between 3 and 128 \
             characters, and may contain letters, numbers, and the following characters: - ( ) . / _",
        ))
    }
}

/// Takes `LaunchTemplateData`; refuses what machines here have not.
fn take_data(region: &str, params: &mut Params) -> Result<BTreeMap<String, String>, ApiError> {
    let data = params.structure("LaunchTemplateData");
    let mut checked = data.clone();
    Settings::take(region, &mut checked)?;
    checked.finish("LaunchTemplateData")?;
    Ok(data.into_map())
}

fn take_description(params: &mut Params) -> Result<Option<String>, ApiError> {
    let description = params.take("VersionDescription");
    match &description {
        Some(text) if text.chars().count() > 255 => Err(invalid_value(
            "VersionDescription",
            text,
            "It has at most 255 characters.",
        )),
        Some(_) | None => Ok(description),
    }
}

/// What a client token has made before; the key under which to keep it, and the request's digest.
fn token(
    call: &Call<'_>,
    operation: &str,
    params: &Params,
) -> Result<(Option<String>, String, Option<String>), ApiError> {
    let request = hex::encode(Sha256::digest(format!("{params:?}")));
    let Some(token) = params.clone().take("ClientToken") else {
        return Ok((None, request, None));
    };
    if token.len() > 128 || !token.is_ascii() {
        let why = "A token has at most 128 ASCII characters.";
        return Err(invalid_value("ClientToken", &token, why));
    }
    let key = format!("{operation}/{token}");
    match call.state.tokens.get(&key) {
        Some(known) if known.request != request => Err(ApiError::new(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        )),
        Some(known) => Ok((Some(key), request, Some(known.made.clone()))),
        None => Ok((Some(key), request, None)),
    }
}

fn remember(call: &mut Call<'_>, key: Option<String>, request: String, made: String) {
    if let Some(key) = key {
        call.state.tokens.insert(key, Token { request, made });
    }
}

fn show(template: &LaunchTemplate) -> Xml {
    Xml::children([
        ("launchTemplateId", Xml::text(&template.id)),
        ("launchTemplateName", Xml::text(&template.name)),
        ("createTime", time(template.created)),
        ("createdBy", created_by()),
        ("defaultVersionNumber", Xml::text(template.default_version)),
        ("latestVersionNumber", Xml::text(template.latest_version())),
        ("tagSet", tags::set(&template.tags)),
    ])
}

fn created_by() -> Xml {
    Xml::text(format!("arn:aws:iam::{ACCOUNT_ID}:user/local"))
}

/// A version as it is shown; with `ResolveAlias` its image is the one that its parameter stands for now.
fn resolved(
    state: &State,
    version: &TemplateVersion,
    resolve: bool,
) -> Result<TemplateVersion, ApiError> {
    let mut version = version.clone();
    if let Some(image) = version.parameters.get_mut("ImageId").filter(|_| resolve) {
        *image = images::resolve(state, image)?;
    }
    Ok(version)
}

fn show_version(template: &LaunchTemplate, number: u64, version: &TemplateVersion) -> Xml {
    Xml::children([
        ("launchTemplateId", Xml::text(&template.id)),
        ("launchTemplateName", Xml::text(&template.name)),
        ("versionNumber", Xml::text(number)),
    ])
    .with_some(
        "versionDescription",
        version.description.as_ref().map(Xml::text),
    )
    .with("createTime", time(version.created))
    .with("createdBy", created_by())
    .with(
        "defaultVersion",
        Xml::text(number == template.default_version),
    )
    .with(
        "launchTemplateData",
        template_data::show(&version.parameters),
    )
}

pub(super) fn create(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let (key, request, made) = token(call, "CreateLaunchTemplate", &params)?;
    let made = made.and_then(|id| call.state.launch_templates.get(&id));
    if let Some(template) = made {
        call.unless_dry()?;
        return Ok(Xml::children([("launchTemplate", show(template))]));
    }
    params.take("ClientToken");
    let name = params.require("LaunchTemplateName")?;
    check_name(&name)?;
    let description = take_description(&mut params)?;
    let tags = Specifications::take(&mut params, &["launch-template"])?.of("launch-template");
    let parameters = take_data(call.region, &mut params)?;
    if parameters.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter LaunchTemplateData",
        ));
    }
    if Name::Name(name.clone()).of(call.state).is_ok() {
        return Err(ApiError::new(
            "InvalidLaunchTemplateName.AlreadyExistsException",
            "Launch template name already in use.",
        ));
    }
    call.accept(&params)?;
    let first = TemplateVersion {
        description,
        created: call.now,
        parameters,
    };
    let template = LaunchTemplate {
        id: call.state.new_id("lt"),
        name,
        created: call.now,
        default_version: 1,
        next_version: 2,
        versions: BTreeMap::from([(1, first)]),
        tags,
    };
    let answer = Xml::children([("launchTemplate", show(&template))]);
    remember(call, key, request, template.id.clone());
    call.state
        .launch_templates
        .insert(template.id.clone(), template);
    Ok(answer)
}

pub(super) fn create_version(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let (key, request, made) = token(call, "CreateLaunchTemplateVersion", &params)?;
    params.take("ClientToken");
    let resolve = params.flag("ResolveAlias")?;
    let template = Name::require(&mut params)?.of(call.state)?.clone();
    let made = made.and_then(|number| number.parse().ok());
    if let Some(number) = made
        && let Some(version) = template.versions.get(&number)
    {
        call.unless_dry()?;
        let version = resolved(call.state, version, resolve)?;
        let shown = show_version(&template, number, &version);
        return Ok(Xml::children([("launchTemplateVersion", shown)]));
    }
    let source = params.take("SourceVersion");
    let description = take_description(&mut params)?;
    let mut data = Params::from(take_data(call.region, &mut params)?);
    if let Some(source) = source {
        let number = number(&template, &source)?;
        data.inherit(&version_of(&template, number)?.parameters);
    }
    let parameters = data.into_map();
    if parameters.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter LaunchTemplateData",
        ));
    }
    call.accept(&params)?;
    let version = TemplateVersion {
        description,
        created: call.now,
        parameters,
    };
    let displayed = resolved(call.state, &version, resolve)?;
    let number = template.next_version;
    remember(call, key, request, number.to_string());
    let template = changed(call, &template.id)?;
    template.next_version += 1;
    let shown = show_version(template, number, &displayed);
    template.versions.insert(number, version);
    Ok(Xml::children([("launchTemplateVersion", shown)]))
}

/// The record of a template that was found before, to be changed.
fn changed<'a>(call: &'a mut Call<'_>, id: &str) -> Result<&'a mut LaunchTemplate, ApiError> {
    call.state
        .launch_templates
        .get_mut(id)
        .ok_or_else(|| ApiError::internal(format!("the launch template {id} vanished")))
}

pub(super) fn modify(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let (key, request, made) = token(call, "ModifyLaunchTemplate", &params)?;
    params.take("ClientToken");
    let template = Name::require(&mut params)?.of(call.state)?.clone();
    if made.is_some() {
        // A late repetition does not undo what came after it.
        call.unless_dry()?;
        return Ok(Xml::children([("launchTemplate", show(&template))]));
    }
    let version = params.require("SetDefaultVersion")?;
    let number = number(&template, &version)?;
    version_of(&template, number)?;
    call.accept(&params)?;
    remember(call, key, request, template.id.clone());
    let template = changed(call, &template.id)?;
    template.default_version = number;
    Ok(Xml::children([("launchTemplate", show(template))]))
}

pub(super) fn delete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let template = Name::require(&mut params)?.of(call.state)?.clone();
    call.accept(&params)?;
    call.state.launch_templates.remove(&template.id);
    Ok(Xml::children([("launchTemplate", show(&template))]))
}

pub(super) fn delete_versions(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let template = Name::require(&mut params)?.of(call.state)?.clone();
    let versions = params.texts("LaunchTemplateVersion");
    if versions.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter LaunchTemplateVersion",
        ));
    }
    if versions.len() > DELETIONS {
        return Err(ApiError::new(
            "InvalidParameterValue",
            format!("At most {DELETIONS} versions are deleted in one request."),
        ));
    }
    let mut numbers = Vec::new();
    for version in versions {
        numbers.push(number(&template, &version)?);
    }
    call.accept(&params)?;
    let row = |number: u64| {
        Xml::children([
            ("launchTemplateId", Xml::text(&template.id)),
            ("launchTemplateName", Xml::text(&template.name)),
            ("versionNumber", Xml::text(number)),
        ])
    };
    let failure = |number: u64, code: &str, message: String| {
        let error = [("code", Xml::text(code)), ("message", Xml::text(message))];
        row(number).with("responseError", Xml::children(error))
    };
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    let record = changed(call, &template.id)?;
    for number in numbers {
        if number == record.default_version {
            let message = "The default version of a launch template cannot be deleted; set another default version \
                           first, or delete the launch template.";
            kept.push(failure(number, "unexpectedError", message.to_owned()));
        } else if record.versions.remove(&number).is_some() {
            gone.push(row(number));
        } else {
            let error = no_version(&template, number);
            let code = "launchTemplateVersionDoesNotExist";
            kept.push(failure(number, code, error.message));
        }
    }
    Ok(Xml::children([
        (
            "successfullyDeletedLaunchTemplateVersionSet",
            Xml::list(gone),
        ),
        (
            "unsuccessfullyDeletedLaunchTemplateVersionSet",
            Xml::list(kept),
        ),
    ]))
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("LaunchTemplateId");
    let names = params.texts("LaunchTemplateName");
    let filters = Filters::take(&mut params, &["create-time", "launch-template-name"])?;
    let page = Page::within(
        "DescribeLaunchTemplates",
        &mut params,
        "MaxResults",
        false,
        PAGE,
    )?;
    call.accept(&params)?;
    let wanted = ids
        .iter()
        .map(|id| Name::Id(id.clone()))
        .chain(names.iter().map(|name| Name::Name(name.clone())));
    for name in wanted {
        name.of(call.state).map_err(|error| {
            let message =
                "At least one of the launch templates specified in the request does not exist.";
            ApiError::new(&error.code, message)
        })?;
    }
    let all = ids.is_empty() && names.is_empty();
    let found = call.state.launch_templates.values().filter(|template| {
        (all || ids.contains(&template.id) || names.contains(&template.name))
            && filters.matches(&template.tags, |field| {
                vec![match field {
                    "create-time" => template
                        .created
                        .strftime("%Y-%m-%dT%H:%M:%S.000Z")
                        .to_string(),
                    _ => template.name.clone(),
                }]
            })
    });
    let (found, token) = page.cut(found.collect(), |template| &template.id);
    let set = Xml::list(found.into_iter().map(show));
    Ok(Xml::children([("launchTemplates", set)]).with_some("nextToken", token))
}

/// One row of `DescribeLaunchTemplateVersions`, with what the pages are sorted by.
struct Row<'a> {
    key: String,
    template: &'a LaunchTemplate,
    number: u64,
    version: &'a TemplateVersion,
}

impl<'a> Row<'a> {
    /// Newest first.
    fn new(template: &'a LaunchTemplate, number: u64, version: &'a TemplateVersion) -> Self {
        Self {
            key: format!("{} {:020}", template.id, u64::MAX - number),
            template,
            number,
            version,
        }
    }

    fn field(&self, name: &str) -> Vec<String> {
        let mut params = Params::from(self.version.parameters.clone());
        let value = match name {
            "is-default-version" => {
                Some((self.number == self.template.default_version).to_string())
            }
            "image-id" => params.take("ImageId"),
            "instance-type" => params.take("InstanceType"),
            "iam-instance-profile" => params
                .take("IamInstanceProfile.Arn")
                .or_else(|| params.take("IamInstanceProfile.Name")),
            _ => params.take("MetadataOptions.HttpTokens"),
        };
        value.into_iter().collect()
    }
}

pub(super) fn describe_versions(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let template = Name::take(&mut params)?;
    let versions = params.texts("LaunchTemplateVersion");
    let bound = |params: &mut Params, name| params.parsed::<u64>(name);
    let from = bound(&mut params, "MinVersion")?;
    let to = bound(&mut params, "MaxVersion")?;
    let filters = Filters::take(
        &mut params,
        &[
            "http-tokens",
            "iam-instance-profile",
            "image-id",
            "instance-type",
            "is-default-version",
        ],
    )?;
    let resolve = params.flag("ResolveAlias")?;
    let page = Page::within(
        "DescribeLaunchTemplateVersions",
        &mut params,
        "MaxResults",
        !versions.is_empty(),
        PAGE,
    )?;
    call.accept(&params)?;
    let state = &call.state;
    let mut rows = Vec::new();
    if let Some(template) = template {
        let template = template.of(state)?;
        if versions.is_empty() {
            let range = from.unwrap_or(0)..=to.unwrap_or(u64::MAX);
            let all = template.versions.iter();
            let all = all.filter(|(number, _)| range.contains(*number));
            rows.extend(all.map(|(number, version)| Row::new(template, *number, version)));
        }
        for version in &versions {
            let number = number(template, version)?;
            rows.push(Row::new(template, number, version_of(template, number)?));
        }
    } else {
        let across = |version: &String| matches!(version.as_str(), "$Latest" | "$Default");
        if versions.is_empty() || !versions.iter().all(across) {
            return Err(ApiError::new(
                "MissingParameter",
                "Without a launch template the request must contain LaunchTemplateVersion, $Latest or $Default or both.",
            ));
        }
        for template in state.launch_templates.values() {
            for version in &versions {
                let number = number(template, version)?;
                rows.push(Row::new(template, number, version_of(template, number)?));
            }
        }
    }
    rows.retain(|row| filters.matches(&Tags::new(), |name| row.field(name)));
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows.dedup_by(|a, b| a.key == b.key);
    let (rows, token) = page.cut(rows, |row| &row.key);
    let set = rows.into_iter().map(|row| {
        let version = resolved(state, row.version, resolve)?;
        Ok(show_version(row.template, row.number, &version))
    });
    let set = set.collect::<Result<Vec<_>, ApiError>>()?;
    Ok(Xml::children([("launchTemplateVersionSet", Xml::list(set))]).with_some("nextToken", token))
}
