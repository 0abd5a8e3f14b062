//! One set of clients over one HTTP client and one clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_ec2::config::{
    Credentials, IdentityCache, SharedCredentialsProvider, SharedHttpClient,
};
use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use aws_smithy_async::time::TimeSource;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::FinalizerInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use super::commands::Commands;
use super::error::{Context, Error, Kind};
use super::unclear::MarkUnclear;
use crate::clock::SharedClock;

/// Attempts per call, with the SDK's back-off of up to 20 s between two: throttling must last for minutes to fail one.
const ATTEMPTS: u32 = 16;

/// Attempts of the first call, which asks who calls: an address where nobody listens is known within 10 s.
const FIRST_ATTEMPTS: u32 = 4;

/// What to connect to.
#[derive(Debug, Clone)]
pub enum Connection {
    /// AWS, with credentials, profile and region as `aws_config` finds them; the arguments come first.
    Aws {
        region: Option<String>,
        profile: Option<String>,
    },
    /// The local cloud behind this HTTP client, with the key that it knows.
    Local {
        http_client: SharedHttpClient,
        region: String,
        access_key: &'static str,
        secret_key: &'static str,
        /// Where its machines reach it: presigned URLs are for them.
        machine_endpoint: &'static str,
    },
}

/// There is nothing to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no AWS region is set; give --region, set AWS_REGION, or set one in the profile")]
    NoRegion,
    #[error("cannot prepare TLS: {0}")]
    Tls(String),
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Account id, 12 digits.
    pub id: String,
    /// ARN of the caller.
    pub arn: String,
}

/// The clients of all services.
#[derive(Debug, Clone)]
pub struct Clients {
    pub autoscaling: aws_sdk_autoscaling::Client,
    pub ec2: aws_sdk_ec2::Client,
    pub s3: aws_sdk_s3::Client,
    pub ssm: aws_sdk_ssm::Client,
    pub sts: aws_sdk_sts::Client,
    pub imagebuilder: aws_sdk_imagebuilder::Client,
    /// `aws` or `local`.
    pub cloud: &'static str,
    pub region: String,
    /// Address of all services, where it is not AWS's own.
    pub endpoint: Option<String>,
    /// Completes the commands that messages name.
    pub commands: Commands,
    pub clock: SharedClock,
}

impl Clients {
    /// Makes the clients. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`] if there is no region or no TLS.
    pub async fn connect(connection: Connection, clock: SharedClock) -> Result<Self, ConnectError> {
        let mut machine_endpoint = None;
        let (cloud, config) = match connection {
            Connection::Aws { region, profile } => ("aws", aws(region, profile, &clock).await?),
            Connection::Local {
                http_client,
                region,
                access_key,
                secret_key,
                machine_endpoint: endpoint,
            } => {
                machine_endpoint = Some(endpoint);
                let credentials =
                    Credentials::new(access_key, secret_key, None, None, "local-cloud");
                ("local", local(http_client, region, credentials, &clock))
            }
        };
        let mut s3 = aws_sdk_s3::config::Builder::from(&config)
            .retry_partition(retries())
            .interceptor(MarkUnclear);
        if let Some(endpoint) = machine_endpoint {
            // An address has no names of buckets below it.
            s3 = s3.endpoint_url(endpoint).force_path_style(true);
        }
        // The SDK takes a variable that is empty for a region.
        let region = config.region().filter(|region| !region.as_ref().is_empty());
        let region = region.ok_or(ConnectError::NoRegion)?.to_string();
        let commands = match cloud {
            "local" => Commands::local(&[], &region),
            _ => Commands::aws(&[], Some(&region), None),
        };
        Ok(Self {
            autoscaling: aws_sdk_autoscaling::Client::from_conf(
                aws_sdk_autoscaling::config::Builder::from(&config)
                    .retry_partition(retries())
                    .build(),
            ),
            ec2: aws_sdk_ec2::Client::from_conf(
                aws_sdk_ec2::config::Builder::from(&config)
                    .retry_partition(retries())
                    .interceptor(MarkUnclear)
                    .build(),
            ),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            ssm: aws_sdk_ssm::Client::from_conf(
                aws_sdk_ssm::config::Builder::from(&config)
                    .retry_partition(retries())
                    .interceptor(MarkUnclear)
                    .build(),
            ),
            sts: aws_sdk_sts::Client::from_conf(
                aws_sdk_sts::config::Builder::from(&config)
                    .retry_config(RetryConfig::standard().with_max_attempts(match cloud {
                        "local" => ATTEMPTS,
                        _ => FIRST_ATTEMPTS,
                    }))
                    .build(),
            ),
            imagebuilder: aws_sdk_imagebuilder::Client::new(&config),
            cloud,
            region,
            endpoint: config.endpoint_url().map(str::to_owned),
            commands,
            clock,
        })
    }

    /// Says which address does not answer.
    fn out_of_reach(&self, mut error: Error) -> Error {
        if error.kind == Kind::Transport {
            error.message = match &self.endpoint {
                Some(url) => format!("{url} is not reachable"),
                None => format!("AWS is not reachable in {}", self.region),
            };
        }
        error
    }

    /// Who calls: the account that everything would be created in. `tell` hears, once, that nobody answers and that it
    /// is tried again.
    ///
    /// # Errors
    /// [`Error`] of `GetCallerIdentity`.
    pub async fn account(&self, tell: fn(&str)) -> Result<Account, Error> {
        let place = match &self.endpoint {
            Some(url) => url.clone(),
            None => format!("AWS in {}", self.region),
        };
        let identity = self
            .sts
            .get_caller_identity()
            .customize()
            .interceptor(FirstFailure {
                place,
                tell,
                told: AtomicBool::new(false),
            })
            .send()
            .await
            .call("sts", "GetCallerIdentity")
            .map_err(|error| self.out_of_reach(error))?;
        Ok(Account {
            id: identity
                .account
                .ok_or_else(|| Error::incomplete("sts", "GetCallerIdentity", "account"))?,
            arn: identity.arn.unwrap_or_default(),
        })
    }
}

/// Tells that a first try got no answer: the SDK tries again in silence.
#[derive(Debug)]
struct FirstFailure {
    place: String,
    tell: fn(&str),
    told: AtomicBool,
}

impl Intercept for FirstFailure {
    fn name(&self) -> &'static str {
        "FirstFailure"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let failed = context.output_or_error().and_then(Result::err);
        let failed = failed.and_then(|error| error.as_connector_error());
        if let Some(error) = failed.filter(|error| error.is_io() || error.is_timeout())
            && !self.told.swap(true, Ordering::Relaxed)
        {
            let why = super::error::innermost(error);
            (self.tell)(&format!(
                "no answer from {} ({why}); trying again, {} times at most",
                self.place,
                FIRST_ATTEMPTS - 1
            ));
        }
        Ok(())
    }
}

/// The SDK stops retrying once its calls have used up a common allowance; a long bake under throttling would.
fn retries() -> RetryPartition {
    RetryPartition::custom("piaas-bake")
        .token_bucket(TokenBucket::unlimited())
        .build()
}

async fn aws(
    region: Option<String>,
    profile: Option<String>,
    clock: &SharedClock,
) -> Result<SdkConfig, ConnectError> {
    let context = tls::TlsContext::builder()
        .build()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .tls_context(context)
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .sleep_impl(ClockSleep(clock.clone()))
        .time_source(ClockTime(clock.clone()));
    let region = match region {
        Some(region) => Some(region),
        None => region_of(profile.as_deref()).await,
    };
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    Ok(loader.load().await)
}

/// The region of a profile of the AWS configuration.
async fn region_of(profile: Option<&str>) -> Option<String> {
    let mut provider = ProfileFileRegionProvider::builder();
    if let Some(profile) = profile {
        provider = provider.profile_name(profile);
    }
    let region = provider.build().region().await?;
    Some(region.to_string()).filter(|region| !region.is_empty())
}

/// What the AWS configuration says beside the settings of this program.
#[derive(Debug)]
pub struct Configured {
    /// The profile's.
    pub region: Option<String>,
    /// Of all services: the environment's, else the profile's.
    pub endpoint_url: Option<String>,
}

/// Reads the AWS configuration; nothing is sent.
pub async fn configured(profile: Option<&str>) -> Configured {
    let region = region_of(profile).await;
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).no_credentials();
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    // With any region the SDK does not ask the instance's metadata for one.
    let config = loader.region(Region::from_static("us-east-1")).load().await;
    Configured {
        region,
        endpoint_url: config.endpoint_url().map(str::to_owned),
    }
}

/// Nothing of the caller's AWS environment is looked at: no profile, no endpoint, no credentials can leak in.
fn local(
    http_client: SharedHttpClient,
    region: String,
    credentials: Credentials,
    clock: &SharedClock,
) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .identity_cache(IdentityCache::no_cache())
        .http_client(http_client)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        // Both race a sleep against the call, which a clock that jumps always wins.
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .sleep_impl(ClockSleep(clock.clone()))
        .time_source(ClockTime(clock.clone()))
        .build()
}

/// The SDK's waiting, on our clock.
#[derive(Debug)]
struct ClockSleep(SharedClock);

impl AsyncSleep for ClockSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self.0.sleep(duration))
    }
}

/// The SDK's time, on our clock.
#[derive(Debug)]
struct ClockTime(SharedClock);

impl TimeSource for ClockTime {
    fn now(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + Duration::try_from(self.0.now().as_duration()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::JumpingClock;

    #[tokio::test]
    async fn the_sdk_sleeps_and_reads_time_on_the_given_clock() {
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock: SharedClock = JumpingClock::starting_at(start);
        ClockSleep(clock.clone())
            .sleep(Duration::from_secs(3600))
            .await;
        let passed = ClockTime(clock)
            .now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(passed.as_secs(), start.as_second().unsigned_abs() + 3600);
    }
}
