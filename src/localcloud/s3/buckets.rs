//! `CreateBucket`, `HeadBucket`, `DeleteBucket`, `ListBuckets`.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::wire::error::ApiError;
use super::super::wire::xml::Xml;
use super::asked::{Asked, is_bucket_name};
use super::error::{
    error, header_not_implemented, invalid_argument, no_such_bucket, not_implemented,
};
use super::list::{decode_token, encode_token, stamp};
use super::spool::broken;
use super::store::{Bucket, Removal};
use super::{Content, OWNER, S3, answer, insert, no_content};

impl S3<'_> {
    /// A bucket of this name, which must be asked for in its own region.
    pub(super) fn bucket(&self, name: &str) -> Result<Bucket, ApiError> {
        if !is_bucket_name(name) {
            return Err(invalid_name(name));
        }
        let bucket = self.buckets.bucket(name);
        let bucket = bucket
            .map_err(|error| broken(&error))?
            .ok_or_else(|| no_such_bucket(name))?;
        if bucket.region != self.region {
            let message = format!(
                "The authorization header is malformed; the region '{}' is wrong; expecting '{}'",
                self.region, bucket.region
            );
            return Err(error(
                StatusCode::BAD_REQUEST,
                "AuthorizationHeaderMalformed",
                message,
            )
            .with("Region", &bucket.region));
        }
        Ok(bucket)
    }

    pub(super) fn create_bucket(
        &self,
        mut asked: Asked,
        body: &Bytes,
    ) -> Result<Response<Content>, ApiError> {
        let name = asked.bucket.clone();
        if !is_bucket_name(&name) {
            return Err(invalid_name(&name));
        }
        for (header, default) in [
            ("x-amz-bucket-object-lock-enabled", "false"),
            ("x-amz-object-ownership", "BucketOwnerEnforced"),
            ("x-amz-bucket-namespace", "global"),
        ] {
            // What a bucket has anyway.
            if let Some(value) = asked.header(header)
                && !value.eq_ignore_ascii_case(default)
            {
                return Err(header_not_implemented(header, &value));
            }
        }
        asked.finish("CreateBucket")?;
        match (location(body)?.as_deref(), self.region) {
            (None, "us-east-1") => {}
            (Some(location), region) if location == region && region != "us-east-1" => {}
            (Some("EU"), "eu-west-1") => {}
            (None, _) => {
                return Err(illegal_location(
                    "The unspecified location constraint is incompatible for the region specific endpoint this \
                     request was sent to.",
                ));
            }
            (Some("us-east-1"), "us-east-1") => {
                let message =
                    "The specified location-constraint is not valid: LocationConstraint us-east-1";
                return Err(error(
                    StatusCode::BAD_REQUEST,
                    "InvalidLocationConstraint",
                    message,
                )
                .with("LocationConstraint", "us-east-1"));
            }
            (Some(other), _) => {
                return Err(illegal_location(&format!(
                    "The {other} location constraint is incompatible for the region specific endpoint this request \
                     was sent to."
                )));
            }
        }
        let bucket = Bucket {
            region: self.region.to_owned(),
            created: self.now,
        };
        let there = self.buckets.create(&name, &bucket);
        if let Some(there) = there.map_err(|error| broken(&error))? {
            // In us-east-1, a bucket that is the caller's already is no error.
            if there.region != "us-east-1" || self.region != "us-east-1" {
                let message = "Your previous request to create the named bucket succeeded and you already own it.";
                return Err(
                    error(StatusCode::CONFLICT, "BucketAlreadyOwnedByYou", message)
                        .with("BucketName", &name),
                );
            }
        }
        let mut response = Response::new(Content::default());
        let location = format!("/{name}");
        insert(response.headers_mut(), "location", &location);
        insert(response.headers_mut(), "x-amz-bucket-arn", &arn(&name));
        Ok(response)
    }

    pub(super) fn head_bucket(&self, asked: Asked) -> Result<Response<Content>, ApiError> {
        let bucket = self.bucket(&asked.bucket)?;
        let arn = arn(&asked.bucket);
        asked.finish("HeadBucket")?;
        let mut response = Response::new(Content::default());
        let headers = response.headers_mut();
        insert(headers, "content-type", "application/xml");
        insert(headers, "x-amz-bucket-region", &bucket.region);
        insert(headers, "x-amz-bucket-arn", &arn);
        insert(headers, "x-amz-access-point-alias", "false");
        Ok(response)
    }

    pub(super) fn delete_bucket(&self, asked: Asked) -> Result<Response<Content>, ApiError> {
        let name = asked.bucket.clone();
        self.bucket(&name)?;
        asked.finish("DeleteBucket")?;
        match self.buckets.remove(&name).map_err(|error| broken(&error))? {
            Removal::Removed => Ok(no_content()),
            Removal::NoSuchBucket => Err(no_such_bucket(&name)),
            Removal::NotEmpty => {
                let message = "The bucket you tried to delete is not empty";
                Err(error(StatusCode::CONFLICT, "BucketNotEmpty", message)
                    .with("BucketName", &name))
            }
        }
    }

    pub(super) fn list_buckets(&self, mut asked: Asked) -> Result<Response<Content>, ApiError> {
        let max = asked.number::<usize>("max-buckets")?;
        if let Some(max) = max.filter(|max| !(1..=10_000).contains(max)) {
            let message = "Argument max-buckets must be an integer between 1 and 10000";
            return Err(invalid_argument("max-buckets", &max.to_string(), message));
        }
        let max = max.unwrap_or(10_000);
        let prefix = asked.parameter("prefix").unwrap_or_default();
        let region = asked.parameter("bucket-region");
        let after = asked.parameter("continuation-token");
        let after = after.map(|token| decode_token(&token)).transpose()?;
        asked.finish("ListBuckets")?;
        let all = self.buckets.all().map_err(|error| broken(&error))?;
        let mut found: Vec<_> = all
            .into_iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .filter(|(_, bucket)| region.as_ref().is_none_or(|one| *one == bucket.region))
            .filter(|(name, _)| after.as_ref().is_none_or(|after| name > after))
            .collect();
        let more = found.len() > max;
        found.truncate(max);
        let token = found
            .last()
            .filter(|_| more)
            .map(|(name, _)| encode_token(name));
        let buckets = found.iter().map(|(name, bucket)| {
            let one = Xml::children([
                ("Name", Xml::text(name)),
                ("CreationDate", Xml::text(stamp(bucket.created))),
                ("BucketRegion", Xml::text(&bucket.region)),
                ("BucketArn", Xml::text(arn(name))),
            ]);
            ("Bucket", one)
        });
        let body = Xml::children([
            ("Owner", Xml::children([("ID", Xml::text(OWNER))])),
            ("Buckets", Xml::children(buckets)),
        ]);
        let body = body
            .with_some("ContinuationToken", token.map(Xml::text))
            .with_some(
                "Prefix",
                Some(prefix).filter(|text| !text.is_empty()).map(Xml::text),
            );
        Ok(answer("ListAllMyBucketsResult", &body))
    }
}

fn arn(bucket: &str) -> String {
    format!("arn:aws:s3:::{bucket}")
}

fn invalid_name(name: &str) -> ApiError {
    let message = format!("The specified bucket is not valid: {name}");
    error(StatusCode::BAD_REQUEST, "InvalidBucketName", message).with("BucketName", name)
}

fn illegal_location(message: &str) -> ApiError {
    error(
        StatusCode::BAD_REQUEST,
        "IllegalLocationConstraintException",
        message,
    )
}

/// The `LocationConstraint` of a `CreateBucketConfiguration`.
pub(crate) fn location(body: &Bytes) -> Result<Option<String>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let malformed = || super::malformed_xml();
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    let document = roxmltree::Document::parse(text).map_err(|_| malformed())?;
    let root = document.root_element();
    if root.tag_name().name() != "CreateBucketConfiguration" {
        return Err(malformed());
    }
    let mut found = None;
    for child in root.children().filter(roxmltree::Node::is_element) {
        match child.tag_name().name() {
            "LocationConstraint" => found = child.text().map(str::to_owned),
            "Tags" if child.children().all(|one| !one.is_element()) => {}
            other @ ("Location" | "Bucket" | "Tags") => {
                return Err(not_implemented(&format!(
                    "{other} of CreateBucketConfiguration of CreateBucket"
                )));
            }
            _ => return Err(malformed()),
        }
    }
    Ok(found)
}
