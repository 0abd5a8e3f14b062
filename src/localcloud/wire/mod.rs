//! The five protocols on the wire, and the signatures on every request.

pub mod constraint;
pub mod error;
pub mod json;
pub mod page_token;
pub mod query;
pub mod sigv4;
pub mod xml;

/// A service of the local cloud, by its name in the credential scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// ec2Query, version 2016-11-15.
    Ec2,
    /// awsJson1.1.
    Ssm,
    /// awsJson1.1; Secrets Manager.
    Secrets,
    /// awsQuery, version 2011-06-15.
    Sts,
    /// awsQuery, version 2011-01-01.
    AutoScaling,
    /// restJson1.
    ImageBuilder,
    /// restXml.
    S3,
}

impl Service {
    /// Its name in a credential scope.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ssm => "ssm",
            Self::Secrets => "secretsmanager",
            Self::Sts => "sts",
            Self::AutoScaling => "autoscaling",
            Self::ImageBuilder => "imagebuilder",
            Self::S3 => "s3",
        }
    }

    /// The service that a credential scope names.
    #[must_use]
    pub fn from_scope(name: &str) -> Option<Self> {
        match name {
            "ec2" => Some(Self::Ec2),
            "ssm" => Some(Self::Ssm),
            "secretsmanager" => Some(Self::Secrets),
            "sts" => Some(Self::Sts),
            "autoscaling" => Some(Self::AutoScaling),
            "imagebuilder" => Some(Self::ImageBuilder),
            "s3" => Some(Self::S3),
            _ => None,
        }
    }
}
