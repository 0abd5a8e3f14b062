//! One recipe file, read: types checked, nothing merged, nothing rendered.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use semver::{Version, VersionReq};

use super::diagnostic::Diagnostic;
use super::model::{BaseRef, FileSpec, LineRecipe, Location, Source, StepSpec, Value};
use super::reader::{Fields, Reader, mode, scalar, size_gib};
use super::span::{self, Mark, Node, Yaml};

/// The one schema there is.
pub const SCHEMA: &str = "piaas-bake/v1";
/// How long a step may take unless it says otherwise.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(600);

/// A recipe file.
#[derive(Debug, Clone)]
pub struct Raw {
    pub description: String,
    pub from: From,
    pub parameters: BTreeMap<String, Parameter>,
    /// Its own part of the line; name, version and directory are in it.
    pub own: LineRecipe,
    pub image: ImageFields,
    pub build: BuildFields,
}

/// What a recipe builds on.
#[derive(Debug, Clone)]
pub enum From {
    Recipe {
        name: String,
        version: VersionReq,
        at: Location,
    },
    Base(BaseRef),
}

/// A parameter as one recipe states it.
#[derive(Debug, Clone)]
pub struct Parameter {
    pub at: Location,
    /// `None`: the recipe only sets a value of a parent's parameter.
    pub declared: Option<Type>,
    pub value: Option<Value>,
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    String,
    Integer,
    Boolean,
    List,
}

impl Type {
    const NAMES: [(&'static str, Self); 4] = [
        ("string", Self::String),
        ("integer", Self::Integer),
        ("boolean", Self::Boolean),
        ("list", Self::List),
    ];

    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("string", |(name, _)| name)
    }

    /// Whether a value is of this type.
    #[must_use]
    pub fn fits(self, value: &Value) -> bool {
        matches!(
            (self, value),
            (Self::String, Value::String(_))
                | (Self::Integer, Value::Integer(_))
                | (Self::Boolean, Value::Boolean(_))
                | (Self::List, Value::List(_))
        )
    }

    /// A value of this type, for looking at a recipe without one.
    #[must_use]
    pub fn stand_in(self) -> Value {
        match self {
            Self::String => Value::String("VALUE".to_owned()),
            Self::Integer => Value::Integer(1),
            Self::Boolean => Value::Boolean(true),
            Self::List => Value::List(vec!["VALUE".to_owned()]),
        }
    }

    /// Reads a value given as text, as `--set` does; a list is split at commas.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        Some(match self {
            Self::String => Value::String(text.to_owned()),
            Self::Integer => Value::Integer(text.parse().ok()?),
            Self::Boolean => Value::Boolean(text.parse().ok()?),
            Self::List if text.is_empty() => Value::List(Vec::new()),
            Self::List => Value::List(text.split(',').map(str::to_owned).collect()),
        })
    }
}

/// The keys of `image` that a recipe sets.
#[derive(Debug, Clone, Default)]
pub struct ImageFields {
    pub size_gib: Option<u32>,
    pub filesystem: Option<String>,
    pub architecture: Option<String>,
    pub boot_mode: Option<String>,
}

/// The keys of `build` that a recipe sets.
#[derive(Debug, Clone, Default)]
pub struct BuildFields {
    pub instance_type: Option<String>,
    pub subnet: Option<String>,
    pub security_groups: Option<Vec<String>>,
    pub instance_profile: Option<String>,
    pub timeout: Option<Duration>,
}

const KEYS: [&str; 13] = [
    "schema",
    "name",
    "version",
    "description",
    "from",
    "parameters",
    "packages",
    "files",
    "steps",
    "validate",
    "test",
    "image",
    "build",
];

/// Reads a recipe file. `dir` is its directory, whose name must be the recipe's.
///
/// # Errors
/// Everything that is wrong with the file itself.
pub fn read(dir: &Path) -> Result<Raw, Vec<Diagnostic>> {
    let file = dir.join("recipe.yaml");
    let text = read_text(&file).map_err(|finding| vec![finding])?;
    let root = span::parse(&file, &text).map_err(|finding| vec![finding])?;
    let mut reader = Reader::new(&file, &text);
    let raw = recipe(&mut reader, dir, &root);
    match raw {
        Some(raw) if reader.found.is_empty() => Ok(raw),
        _ => Err(reader.found),
    }
}

fn read_text(file: &Path) -> Result<String, Diagnostic> {
    let fail = |message: String| Diagnostic::general(Some(file.to_path_buf()), message);
    let metadata = std::fs::metadata(file).map_err(|error| {
        fail(format!("cannot read the recipe: {error}"))
            .help("start one with `piaas-bake init NAME`")
    })?;
    if metadata.len() > span::MAX_BYTES {
        return Err(fail(format!(
            "the recipe is larger than {} KiB",
            span::MAX_BYTES / 1024
        ))
        .help("put long texts into files beside it"));
    }
    let bytes =
        std::fs::read(file).map_err(|error| fail(format!("cannot read the recipe: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        fail(format!("line {line} is not UTF-8")).help("save the file as UTF-8")
    })
}

fn recipe(reader: &mut Reader<'_>, dir: &Path, root: &Node) -> Option<Raw> {
    let fields = reader.fields(root, "a recipe", &KEYS)?;
    if let Some(schema) = reader.required(fields, "schema", "the recipe")
        && reader
            .text(schema, "`schema`")
            .is_some_and(|schema| schema != SCHEMA)
    {
        reader.fail(
            schema.at,
            "unknown schema",
            format!("this version reads `schema: {SCHEMA}`"),
        );
    }
    let name = name(reader, fields, dir);
    let version = reader
        .required(fields, "version", "the recipe")
        .and_then(|node| {
            let text = reader.text(node, "`version`")?;
            match Version::parse(&text) {
                Ok(version) => Some(version),
                Err(error) => {
                    reader.fail(
                        node.at,
                        format!("`{text}` is not a semantic version: {error}"),
                        "write it as `1.2.3`",
                    );
                    None
                }
            }
        });
    let description = reader.required_text(fields, "description", "the recipe");
    let from = reader
        .required(fields, "from", "the recipe")
        .and_then(|node| from(reader, node));
    let parameters = parameters(reader, fields.get("parameters"));
    let packages = packages(reader, fields.get("packages"));
    let files = reader
        .list(fields.get("files"), "`files`")
        .iter()
        .filter_map(|node| file_spec(reader, dir, node))
        .collect();
    let mut steps = |key: &str| -> Vec<StepSpec> {
        let nodes = reader.list(fields.get(key), &format!("`{key}`"));
        nodes
            .iter()
            .filter_map(|node| step(reader, dir, node, key))
            .collect()
    };
    let (steps, validate, test) = (steps("steps"), steps("validate"), steps("test"));
    let image = fields
        .get("image")
        .map(|node| image(reader, node))
        .unwrap_or_default();
    let build = fields
        .get("build")
        .map(|node| build(reader, node))
        .unwrap_or_default();
    let own = LineRecipe {
        name: name?,
        version: version?,
        dir: dir.to_path_buf(),
        packages,
        files,
        steps,
        validate,
        test,
    };
    Some(Raw {
        description: description?,
        from: from?,
        parameters,
        own,
        image,
        build,
    })
}

fn name(reader: &mut Reader<'_>, fields: Fields<'_>, dir: &Path) -> Option<String> {
    let node = reader.required(fields, "name", "the recipe")?;
    let name = reader.text(node, "`name`")?;
    if !is_name(&name) {
        let help =
            "use lower case letters, digits and single hyphens, at most 64, such as `ci-worker`";
        reader.fail(node.at, format!("`{name}` is not a recipe name"), help);
    } else if dir
        .file_name()
        .is_some_and(|folder| folder != name.as_str())
    {
        let folder = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        reader.fail(
            node.at,
            format!("the recipe `{name}` is in the folder `{folder}`"),
            "give both the same name",
        );
    }
    Some(name)
}

/// Whether this may name a recipe: it becomes part of image names, tags and SSM parameter paths.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && !name.is_empty()
        && name
            .split('-')
            .all(|part| !part.is_empty() && part.bytes().all(letters))
}

fn from(reader: &mut Reader<'_>, node: &Node) -> Option<From> {
    const KINDS: [&str; 5] = ["recipe", "ssm", "ami", "filter", "imagebuilder"];
    let fields = reader.fields(
        node,
        "`from`",
        &["recipe", "version", "ssm", "ami", "filter", "imagebuilder"],
    )?;
    let given: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| fields.get(kind).is_some())
        .collect();
    let [kind] = given[..] else {
        reader.fail(
            node.at,
            "`from` names one thing to build on",
            format!("give exactly one of {}", KINDS.join(", ")),
        );
        return None;
    };
    let value = fields.get(kind)?;
    if kind != "recipe"
        && let Some(version) = fields.get("version")
    {
        reader.fail(version.at, "`version` goes with `recipe`", "remove it");
    }
    if kind == "filter" {
        return filter(reader, value).map(From::Base);
    }
    let text = reader.text(value, &format!("`{kind}`"))?;
    let shape = |reader: &mut Reader<'_>, fits: bool, help: &str| {
        if !fits {
            reader.fail(
                value.at,
                format!("`{text}` is not what `{kind}` takes"),
                help,
            );
        }
        fits
    };
    match kind {
        "recipe" => {
            let range = match fields.get("version") {
                None => VersionReq::STAR,
                Some(node) => {
                    let range = reader.text(node, "`version`")?;
                    match VersionReq::parse(&range) {
                        Ok(range) => range,
                        Err(error) => {
                            let message = format!("`{range}` is not a version range: {error}");
                            reader.fail(node.at, message, "write it as `^1` or `>=1.2, <2`");
                            return None;
                        }
                    }
                }
            };
            Some(From::Recipe {
                name: text,
                version: range,
                at: reader.location(value.at),
            })
        }
        "ssm" => shape(
            reader,
            text.starts_with('/'),
            "give the parameter's full path, starting with `/`",
        )
        .then(|| {
            From::Base(BaseRef::Ssm {
                parameter: text.clone(),
            })
        }),
        "ami" => {
            let id = text.strip_prefix("ami-").is_some_and(|id| {
                matches!(id.len(), 8 | 17) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            shape(
                reader,
                id,
                "an AMI id is `ami-` and 8 or 17 hexadecimal digits",
            )
            .then(|| From::Base(BaseRef::Ami { id: text.clone() }))
        }
        _ => shape(
            reader,
            text.starts_with("arn:"),
            "give the ARN of an image version",
        )
        .then(|| From::Base(BaseRef::ImageBuilder { arn: text.clone() })),
    }
}

fn filter(reader: &mut Reader<'_>, node: &Node) -> Option<BaseRef> {
    let fields = reader.fields(node, "`filter`", &["owners", "name", "filters"])?;
    let owners = reader.texts(fields.get("owners"), "`owners`");
    if owners.is_empty() {
        reader.fail(
            node.at,
            "`filter` has no `owners`",
            "name them: anybody may publish an image under any name",
        );
    }
    let mut filters = BTreeMap::new();
    if let Some(name) = fields.get("name") {
        filters.insert("name".to_owned(), vec![reader.text(name, "`name`")?]);
    }
    if let Some(more) = fields.get("filters") {
        for (key, values) in reader.mapping(more, "`filters`")?.iter() {
            let values = match &values.value {
                Yaml::Sequence(_) => reader.texts(Some(values), "the filter"),
                _ => reader.text(values, "the filter").into_iter().collect(),
            };
            filters.insert(key.name.clone(), values);
        }
    }
    if filters.is_empty() {
        reader.fail(
            node.at,
            "`filter` matches every image of its owners",
            "add `name: \"debian-12-amd64-*\"`",
        );
    }
    Some(BaseRef::Filter { owners, filters })
}

fn parameters(reader: &mut Reader<'_>, node: Option<&Node>) -> BTreeMap<String, Parameter> {
    let Some(fields) = node.and_then(|node| reader.mapping(node, "`parameters`")) else {
        return BTreeMap::new();
    };
    let mut parameters = BTreeMap::new();
    for (key, node) in fields.iter() {
        let word = key.name.bytes().enumerate().all(|(index, byte)| {
            byte == b'_' || byte.is_ascii_lowercase() || (index > 0 && byte.is_ascii_digit())
        });
        if !word || key.name.is_empty() {
            let help = "use lower case letters, digits and underscores, such as `master_host`";
            reader.fail(
                key.at,
                format!("`{}` is not a parameter name", key.name),
                help,
            );
            continue;
        }
        if let Some(parameter) = parameter(reader, key.at, node) {
            parameters.insert(key.name.clone(), parameter);
        }
    }
    parameters
}

fn parameter(reader: &mut Reader<'_>, key: Mark, node: &Node) -> Option<Parameter> {
    let at = reader.location(key);
    if !matches!(node.value, Yaml::Mapping(_)) {
        let value = value(reader, node)?;
        return Some(Parameter {
            at,
            declared: None,
            value: Some(value),
        });
    }
    let fields = reader.fields(node, "a parameter", &["type", "default", "description"])?;
    let type_node = reader.required(fields, "type", "the parameter")?;
    let name = reader.text(type_node, "`type`")?;
    let Some((_, kind)) = Type::NAMES.into_iter().find(|(known, _)| *known == name) else {
        reader.fail(
            type_node.at,
            format!("unknown type `{name}`"),
            "the types are string, integer, boolean and list",
        );
        return None;
    };
    if let Some(description) = fields.get("description") {
        reader.text(description, "`description`")?;
    }
    let default = match fields.get("default") {
        None => None,
        Some(node) => {
            let value = value(reader, node)?;
            if !kind.fits(&value) {
                let help = match kind {
                    Type::String => "put the value in quotes",
                    _ => "change the type or the value",
                };
                reader.fail(
                    node.at,
                    format!("the default is not of the type `{name}`"),
                    help,
                );
                return None;
            }
            Some(value)
        }
    };
    Some(Parameter {
        at,
        declared: Some(kind),
        value: default,
    })
}

fn value(reader: &mut Reader<'_>, node: &Node) -> Option<Value> {
    match &node.value {
        Yaml::Sequence(_) => Some(Value::List(reader.texts(Some(node), "the value"))),
        Yaml::Scalar { .. } => scalar(node),
        Yaml::Mapping(_) => {
            reader.fail(
                node.at,
                "a value is a text, a number, true, false or a list of texts",
                "write one of those",
            );
            None
        }
    }
}

fn packages(reader: &mut Reader<'_>, node: Option<&Node>) -> Vec<String> {
    let mut packages: Vec<String> = Vec::new();
    for node in reader.list(node, "`packages`") {
        let Some(package) = reader.text(node, "a package") else {
            continue;
        };
        // Debian Policy 5.6.7, with an optional `=version` or `/release` as apt-get takes it.
        let name = package.split(['=', '/', ':']).next().unwrap_or_default();
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        if name.len() < 2
            || !name.bytes().all(allowed)
            || !name.as_bytes()[0].is_ascii_alphanumeric()
        {
            reader.fail(
                node.at,
                format!("`{package}` is not a Debian package name"),
                "see `apt-cache search WORD`",
            );
        } else if packages.contains(&package) {
            reader.fail(
                node.at,
                format!("the package `{package}` is listed twice"),
                "remove one",
            );
        } else {
            packages.push(package);
        }
    }
    packages
}

fn file_spec(reader: &mut Reader<'_>, dir: &Path, node: &Node) -> Option<FileSpec> {
    let keys = [
        "path", "source", "template", "content", "owner", "group", "mode",
    ];
    let fields = reader.fields(node, "a file", &keys)?;
    let path_node = reader.required(fields, "path", "the file")?;
    let path = reader.text(path_node, "`path`")?;
    let clean = Path::new(&path)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.starts_with('/') || path.ends_with('/') || !clean || path.contains('\0') {
        reader.fail(
            path_node.at,
            format!("`{path}` is not an absolute path of a file"),
            "write it as `/etc/name`",
        );
    }
    let source = source(
        reader,
        dir,
        fields,
        "the file",
        &[("source", false), ("template", true), ("content", true)],
    )?;
    let text = |reader: &mut Reader<'_>, key: &str| match fields.get(key) {
        None => Some("root".to_owned()),
        Some(node) => {
            let name = reader.text(node, &format!("`{key}`"))?;
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(word) {
                reader.fail(
                    node.at,
                    format!("`{name}` is not a user or group name"),
                    "write a name or a number",
                );
            }
            Some(name)
        }
    };
    let (owner, group) = (text(reader, "owner")?, text(reader, "group")?);
    let mode = match fields.get("mode") {
        None => 0o644,
        Some(node) => {
            let written = reader.text(node, "`mode`")?;
            match mode(&written) {
                Some(mode) => mode,
                None => {
                    let help = "write three or four octal digits in quotes, such as `\"0644\"`";
                    reader.fail(node.at, format!("`{written}` is not a mode"), help);
                    return None;
                }
            }
        }
    };
    Some(FileSpec {
        path,
        source,
        owner,
        group,
        mode,
        at: reader.location(node.at),
    })
}

fn step(reader: &mut Reader<'_>, dir: &Path, node: &Node, list: &str) -> Option<StepSpec> {
    let keys = [
        "name", "run", "script", "template", "env", "timeout", "retries", "reboot",
    ];
    let fields = reader.fields(node, "a step", &keys)?;
    let name = reader.required_text(fields, "name", "the step")?;
    if name.chars().any(char::is_control) || name.trim().is_empty() {
        reader.fail(node.at, "the name of a step is one line", "shorten it");
    }
    let source = source(
        reader,
        dir,
        fields,
        "the step",
        &[("run", true), ("script", false), ("template", true)],
    )?;
    let mut env = BTreeMap::new();
    if let Some(node) = fields.get("env") {
        for (key, node) in reader.mapping(node, "`env`")?.iter() {
            let word = key
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !word || key.name.is_empty() || key.name.as_bytes()[0].is_ascii_digit() {
                reader.fail(
                    key.at,
                    format!("`{}` is not a variable name", key.name),
                    "use letters, digits and `_`",
                );
            }
            env.insert(key.name.clone(), reader.text(node, "a variable")?);
        }
    }
    let timeout = fields.get("timeout").map_or(Some(STEP_TIMEOUT), |node| {
        reader.duration(node, "`timeout`")
    })?;
    let retries = fields
        .get("retries")
        .map_or(Some(0), |node| reader.number(node, "`retries`", 0..=10))?;
    let reboot = fields
        .get("reboot")
        .map_or(Some(false), |node| reader.boolean(node, "`reboot`"))?;
    if reboot && list != "steps" {
        reader.fail(
            node.at,
            format!("a check of `{list}` cannot reboot the machine"),
            "move the reboot to `steps`",
        );
    }
    let retries = u32::try_from(retries).unwrap_or(0);
    Some(StepSpec {
        name,
        source,
        env,
        timeout,
        retries,
        reboot,
        at: reader.location(node.at),
    })
}

/// Exactly one of three keys says where a text comes from; the flag tells whether it is a template.
fn source(
    reader: &mut Reader<'_>,
    dir: &Path,
    fields: Fields<'_>,
    what: &str,
    keys: &[(&str, bool); 3],
) -> Option<Source> {
    let given: Vec<(&str, bool)> = keys
        .iter()
        .copied()
        .filter(|(key, _)| fields.get(key).is_some())
        .collect();
    let [(key, template)] = given[..] else {
        let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        reader.fail(
            fields.at,
            format!("{what} needs one text"),
            format!("give exactly one of {}", names.join(", ")),
        );
        return None;
    };
    let node = fields.get(key)?;
    let text = reader.text(node, &format!("`{key}`"))?;
    if matches!(key, "run" | "content") {
        return Some(Source::Inline(text));
    }
    match inside(dir, &text) {
        Ok(path) if template => Some(Source::Template(path)),
        Ok(path) => Some(Source::Raw(path)),
        Err((message, help)) => {
            reader.fail(node.at, message, help);
            None
        }
    }
}

/// The path of a file beside the recipe, symbolic links resolved; never outside the recipe's directory.
fn inside(dir: &Path, relative: &str) -> Result<PathBuf, (String, String)> {
    let outside = || {
        (
            format!("`{relative}` is outside the recipe's directory"),
            "copy the file beside the recipe".to_owned(),
        )
    };
    if Path::new(relative)
        .components()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(outside());
    }
    let path = dir.join(relative);
    let real = path.canonicalize().map_err(|error| {
        (
            format!("cannot read `{relative}`: {error}"),
            format!("put the file at {}", path.display()),
        )
    })?;
    let root = dir.canonicalize().map_err(|error| {
        (
            format!("cannot read the recipe's directory: {error}"),
            String::new(),
        )
    })?;
    if !real.starts_with(&root) {
        return Err(outside());
    }
    if !real.is_file() {
        return Err((
            format!("`{relative}` is not a file"),
            "name a regular file".to_owned(),
        ));
    }
    Ok(real)
}

fn image(reader: &mut Reader<'_>, node: &Node) -> ImageFields {
    let Some(fields) = reader.fields(
        node,
        "`image`",
        &["size", "filesystem", "architecture", "boot_mode"],
    ) else {
        return ImageFields::default();
    };
    let size_gib = fields.get("size").and_then(|node| {
        let text = reader.text(node, "`size`")?;
        let size = size_gib(&text);
        if size.is_none() {
            reader.fail(
                node.at,
                format!("`{text}` is not a size"),
                "write it in whole GiB, such as `8GiB`",
            );
        }
        size
    });
    let mut one_of = |key: &str, known: &[&str]| -> Option<String> {
        let node = fields.get(key)?;
        let text = reader.text(node, &format!("`{key}`"))?;
        if !known.contains(&text.as_str()) {
            reader.fail(
                node.at,
                format!("`{text}` is not a known {key}"),
                format!("use {}", known.join(" or ")),
            );
            return None;
        }
        Some(text)
    };
    ImageFields {
        size_gib,
        filesystem: one_of("filesystem", &["ext4"]),
        architecture: one_of("architecture", &["x86_64", "arm64"]),
        boot_mode: one_of("boot_mode", &["uefi", "uefi-preferred"]),
    }
}

fn build(reader: &mut Reader<'_>, node: &Node) -> BuildFields {
    let keys = [
        "instance_type",
        "subnet",
        "security_groups",
        "instance_profile",
        "timeout",
    ];
    let Some(fields) = reader.fields(node, "`build`", &keys) else {
        return BuildFields::default();
    };
    let mut text = |key: &str| {
        fields
            .get(key)
            .and_then(|node| reader.text(node, &format!("`{key}`")))
    };
    let (instance_type, subnet, instance_profile) = (
        text("instance_type"),
        text("subnet"),
        text("instance_profile"),
    );
    BuildFields {
        instance_type,
        subnet,
        security_groups: fields
            .get("security_groups")
            .map(|node| reader.texts(Some(node), "`security_groups`")),
        instance_profile,
        timeout: fields
            .get("timeout")
            .and_then(|node| reader.duration(node, "`timeout`")),
    }
}
