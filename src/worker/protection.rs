//! Protection from scale-in: the two calls of EC2 Auto Scaling that keep a group from ending a worker that is not drained.
//!
//! `DescribeAutoScalingInstances` tells the group, `SetInstanceProtection` protects (Auto Scaling API Reference, version
//! 2011-01-01). What to do is [`next`], pure; [`Calls`] carries it out.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::fetch::{self, Reply};
use super::imds::{self, Identity, Imds};
use super::sign;

const LIMIT: Duration = Duration::from_secs(15);
/// How often something that is as it should be is looked at again.
const SETTLED: Duration = Duration::from_secs(300);
/// How often an instance is looked at that its group does not serve with yet.
const PENDING: Duration = Duration::from_secs(5);
/// Longest pause between two tries after failures.
const LONGEST: Duration = Duration::from_secs(60);

/// What Auto Scaling says of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub group: String,
    /// Such as `InService`.
    pub lifecycle: String,
    pub protected: bool,
}

/// What to do about a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Set protection to this.
    Set(bool),
    /// Look again later.
    Wait(Duration),
}

/// Decides. None: the instance is in no group, so nothing protects it and nothing scales it in.
#[must_use]
pub fn next(membership: Option<&Membership>, wanted: bool) -> Next {
    match membership {
        None => Next::Wait(LONGEST),
        Some(member) if member.protected == wanted => Next::Wait(SETTLED),
        // Only an instance in service takes it: any other state is a ValidationError.
        Some(member) if member.lifecycle == "InService" => Next::Set(wanted),
        Some(member) if member.lifecycle.starts_with("Pending") => Next::Wait(PENDING),
        Some(_) => Next::Wait(LONGEST),
    }
}

/// The pause after so many failures in a row: 2 s, 4 s, … a minute.
#[must_use]
pub fn pause(failures: u32) -> Duration {
    let seconds = 1_u64 << failures.clamp(1, 6);
    Duration::from_secs(seconds).min(LONGEST)
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Imds(#[from] imds::Error),
    #[error("{action}: {source}")]
    Silent {
        action: &'static str,
        source: fetch::Error,
    },
    #[error("{action}: {code}: {message}")]
    Refused {
        action: &'static str,
        code: String,
        message: String,
    },
    #[error("{action}: cannot sign the request: {why}")]
    Signing { action: &'static str, why: String },
}

/// The calls, for one instance.
#[derive(Debug, Clone)]
pub struct Calls {
    imds: Imds,
    identity: Identity,
    endpoint: String,
}

impl Calls {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(imds: Imds, identity: Identity) -> Self {
        Self {
            imds,
            endpoint: sign::endpoint("autoscaling", &identity),
            identity,
        }
    }

    /// The group that the instance is in. None: in no group.
    ///
    /// # Errors
    /// The call failed.
    pub async fn membership(&self) -> Result<Option<Membership>, Error> {
        let body = self
            .call(
                "DescribeAutoScalingInstances",
                &[("InstanceIds.member.1", &self.identity.instance)],
            )
            .await?;
        Ok(read(&body))
    }

    /// Protects the instance, or no longer.
    ///
    /// # Errors
    /// The call failed.
    pub async fn set(&self, group: &str, protected: bool) -> Result<(), Error> {
        self.call(
            "SetInstanceProtection",
            &[
                ("AutoScalingGroupName", group),
                ("InstanceIds.member.1", &self.identity.instance),
                (
                    "ProtectedFromScaleIn",
                    if protected { "true" } else { "false" },
                ),
            ],
        )
        .await?;
        Ok(())
    }

    async fn call(
        &self,
        action: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<String, Error> {
        let keys = self.imds.keys().await?;
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", "2011-01-01")
            .extend_pairs(parameters)
            .finish();
        let request = self
            .signed(body, &keys, SystemTime::now())
            .map_err(|why| Error::Signing { action, why })?;
        let reply = fetch::send(request, LIMIT)
            .await
            .map_err(|source| Error::Silent { action, source })?;
        if reply.status == 200 {
            return Ok(reply.body);
        }
        Err(refused(action, &reply))
    }

    fn signed(
        &self,
        body: String,
        keys: &imds::Keys,
        now: SystemTime,
    ) -> Result<Request<Full<Bytes>>, String> {
        let headers = [(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let call = sign::Call {
            endpoint: &self.endpoint,
            region: &self.identity.region,
            service: "autoscaling",
            headers: &headers,
        };
        sign::signed(&call, body, keys, now)
    }
}

fn refused(action: &'static str, reply: &Reply) -> Error {
    Error::Refused {
        action,
        code: element(&reply.body, "Code").unwrap_or_else(|| format!("HTTP {}", reply.status)),
        message: element(&reply.body, "Message").unwrap_or_default(),
    }
}

/// The one instance of an answer of `DescribeAutoScalingInstances`.
fn read(body: &str) -> Option<Membership> {
    Some(Membership {
        group: element(body, "AutoScalingGroupName")?,
        lifecycle: element(body, "LifecycleState")?,
        protected: element(body, "ProtectedFromScaleIn")? == "true",
    })
}

/// The text of the first element of this name. Text in XML has no `<`, so a tag that is found is a tag.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    // The ampersand last, or `&amp;lt;` would become `<`.
    let text = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    });
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(lifecycle: &str, protected: bool) -> Membership {
        Membership {
            group: "ci".into(),
            lifecycle: lifecycle.into(),
            protected,
        }
    }

    #[test]
    fn only_an_instance_in_service_is_changed_and_only_if_it_differs() {
        let cases = [
            (Some(member("InService", false)), true, Next::Set(true)),
            (Some(member("InService", true)), false, Next::Set(false)),
            (Some(member("InService", true)), true, Next::Wait(SETTLED)),
            (
                Some(member("Pending:Wait", false)),
                true,
                Next::Wait(PENDING),
            ),
            (
                Some(member("Terminating", true)),
                false,
                Next::Wait(LONGEST),
            ),
            (None, true, Next::Wait(LONGEST)),
        ];
        for (membership, wanted, expected) in cases {
            assert_eq!(
                next(membership.as_ref(), wanted),
                expected,
                "{membership:?}"
            );
        }
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let pauses: Vec<_> = [0, 1, 2, 5, 6, 99].map(|n| pause(n).as_secs()).into();
        assert_eq!(pauses, [2, 2, 4, 32, 60, 60]);
    }

    #[test]
    fn answers_of_auto_scaling_are_read() {
        let body = "<DescribeAutoScalingInstancesResponse><DescribeAutoScalingInstancesResult>\
            <AutoScalingInstances><member><InstanceId>i-1</InstanceId>\
            <AutoScalingGroupName>a &amp;lt; b</AutoScalingGroupName><LifecycleState>InService</LifecycleState>\
            <ProtectedFromScaleIn>true</ProtectedFromScaleIn></member></AutoScalingInstances>\
            </DescribeAutoScalingInstancesResult></DescribeAutoScalingInstancesResponse>";
        let mut expected = member("InService", true);
        expected.group = "a &lt; b".into();
        assert_eq!(read(body), Some(expected));
        assert_eq!(read("<AutoScalingInstances/>"), None);
        let reply = Reply {
            status: 400,
            body: "<ErrorResponse><Error><Code>Throttling</Code><Message>slow</Message></Error></ErrorResponse>".into(),
        };
        assert_eq!(
            refused("SetInstanceProtection", &reply).to_string(),
            "SetInstanceProtection: Throttling: slow"
        );
    }
}
