//! Asking apt archives over HTTP what they hold now. Every file is asked for once.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, Limited};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::index::{Form, Packing, Release, offers};
use super::{Moved, Record};
use crate::debs::{Cache, Package};

/// The longest that a file about the archive may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest that the file of a package may take.
const FILE_PATIENCE: Duration = Duration::from_secs(1800);
/// Bytes of an `InRelease` file: Debian's has about 200 KB.
const RELEASE_LIMIT: usize = 8 << 20;
/// Bytes of an index, packed: Debian's largest has 12 MB.
const PACKED_LIMIT: usize = 128 << 20;
/// Bytes of an index, unpacked: Debian's largest has 50 MB.
const UNPACKED_LIMIT: u64 = 1 << 30;
/// Memory that unpacking may take, in KiB: the dictionary of `xz -9` has 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// Bytes of a download that is locked for the first time.
const LARGEST_DOWNLOAD: u64 = 16 << 30;
const REDIRECTS: usize = 5;

/// A view of archives, remembered.
#[derive(Debug)]
pub struct Archive {
    connector: Connector,
    releases: BTreeMap<String, Result<Release, String>>,
    offers: BTreeMap<(String, String), Result<HashMap<String, String>, String>>,
}

impl Archive {
    /// A view that has asked for nothing yet. The proxy of the environment is used (`http_proxy`, `no_proxy`).
    ///
    /// # Errors
    /// TLS cannot be prepared.
    pub fn new() -> Result<Self, String> {
        let context = tls::TlsContext::builder()
            .build()
            .map_err(|error| error.to_string())?;
        let connector = Connector::builder()
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .tls_context(context)
            .build();
        Ok(Self {
            connector,
            releases: BTreeMap::new(),
            offers: BTreeMap::new(),
        })
    }

    /// The packages of a record that its archives offer in a newer version by now.
    ///
    /// # Errors
    /// Why it cannot be told: an archive does not answer, or not as an archive does.
    pub async fn moved(&mut self, record: &Record) -> Result<Vec<Moved>, String> {
        if record.is_blind() {
            return Err("it was not noted from which archive they came".to_owned());
        }
        let mut now = BTreeMap::new();
        for suite in record.suites() {
            now.insert(suite.to_owned(), self.release(suite).await?);
        }
        let mut offers = BTreeMap::new();
        for (suite, path) in record.changed(&now) {
            let release = &now[&suite];
            let found = self.index(&suite, &path, release).await?;
            offers.insert((suite, path), found);
        }
        Ok(record.moved(&now, &offers))
    }

    async fn release(&mut self, suite: &str) -> Result<Release, String> {
        if let Some(known) = self.releases.get(suite) {
            return known.clone();
        }
        let url = format!("{suite}InRelease");
        let answer = match self.get(&url, RELEASE_LIMIT).await {
            Ok(bytes) => Release::parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
                format!("{url} does not read as the release file of an apt archive")
            }),
            Err(error) => Err(error),
        };
        self.releases.insert(suite.to_owned(), answer.clone());
        answer
    }

    async fn index(
        &mut self,
        suite: &str,
        path: &str,
        release: &Release,
    ) -> Result<HashMap<String, String>, String> {
        let key = (suite.to_owned(), path.to_owned());
        if let Some(known) = self.offers.get(&key) {
            return known.clone();
        }
        let answer = match release.forms(path).into_iter().next() {
            None => Err(format!("{suite} has no {path} any more")),
            Some(form) => self.download(suite, &form).await,
        };
        self.offers.insert(key, answer.clone());
        answer
    }

    async fn download(&self, suite: &str, form: &Form) -> Result<HashMap<String, String>, String> {
        let url = format!("{suite}{}", form.place);
        let bytes = self.get(&url, PACKED_LIMIT).await?;
        if hex::encode(Sha256::digest(&bytes)) != form.sha256 {
            return Err(format!("{url} is not the file that its release file names"));
        }
        let packing = form.packing;
        let unpacked = tokio::task::spawn_blocking(move || unpack(packing, &bytes))
            .await
            .map_err(|error| error.to_string())?;
        let text = unpacked.map_err(|error| format!("{url} cannot be unpacked: {error}"))?;
        Ok(offers(&String::from_utf8_lossy(&text)))
    }

    /// Fetches the file of a package into a cache.
    ///
    /// # Errors
    /// It cannot be had, or is not what is wanted.
    pub async fn fetch(&self, package: &Package, cache: &Cache) -> Result<(), String> {
        let url = &package.url;
        let unkept = |error: std::io::Error| format!("{} cannot be kept: {error}", package.name);
        let whole = async {
            let file = cache.begin().map_err(unkept)?;
            self.write(url, package.size, file).await
        };
        let (file, _) = patiently(url, FILE_PATIENCE, whole).await?;
        let kept = cache.keep(file, package).map_err(unkept)?;
        kept.map(drop)
            .ok_or_else(|| format!("{url} is not what the lock file names: another sha256"))
    }

    /// Fetches a file of which nobody has said what it is into a cache; gives its sha256 and its bytes.
    ///
    /// # Errors
    /// It cannot be had, or not be kept.
    pub async fn take(&self, url: &str, cache: &Cache) -> Result<(String, u64), String> {
        let unkept = |error: std::io::Error| format!("{url} cannot be kept: {error}");
        let whole = async {
            let file = cache.begin().map_err(unkept)?;
            self.write(url, LARGEST_DOWNLOAD, file).await
        };
        let (file, size) = patiently(url, FILE_PATIENCE, whole).await?;
        Ok((cache.take(file).map_err(unkept)?, size))
    }

    /// Writes what is at an address, of so many bytes at most; gives how many it has.
    async fn write(
        &self,
        url: &str,
        most: u64,
        mut file: NamedTempFile,
    ) -> Result<(NamedTempFile, u64), String> {
        let mut body = self.follow(url).await?;
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("{url}: {error}"))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            size += bytes.len() as u64;
            if size > most {
                return Err(format!(
                    "{url} is larger than the {most} bytes that it may have"
                ));
            }
            file.write_all(&bytes)
                .map_err(|error| format!("{url} cannot be kept: {error}"))?;
        }
        Ok((file, size))
    }

    async fn get(&self, url: &str, limit: usize) -> Result<Vec<u8>, String> {
        let whole = async {
            let body = Limited::new(self.follow(url).await?, limit).collect().await;
            body.map(|whole| whole.to_bytes().to_vec())
                .map_err(|error| format!("{url}: {error}"))
        };
        patiently(url, PATIENCE, whole).await
    }

    /// The body of what is at an address, or where that leads.
    async fn follow(&self, url: &str) -> Result<SdkBody, String> {
        let mut place = url.to_owned();
        for _ in 0..=REDIRECTS {
            if !place.starts_with("http://") && !place.starts_with("https://") {
                return Err(format!("{place} cannot be asked over HTTP"));
            }
            let request = http::Request::get(&place)
                .header(
                    "user-agent",
                    concat!("piaas-bake/", env!("CARGO_PKG_VERSION")),
                )
                .body(SdkBody::empty())
                .map_err(|error| format!("{place}: {error}"))?;
            let request =
                HttpRequest::try_from(request).map_err(|error| format!("{place}: {error}"))?;
            let response = self
                .connector
                .call(request)
                .await
                .map_err(|error| format!("{place} does not answer: {}", innermost(&error)))?;
            let status = response.status().as_u16();
            let target = response.headers().get("location").map(str::to_owned);
            match (status, target) {
                (200, _) => return Ok(response.into_body()),
                (301 | 302 | 303 | 307 | 308, Some(target)) => place = resolve(&place, &target),
                _ => return Err(format!("{place} answers with status {status}")),
            }
        }
        Err(format!("{url} is redirected again and again"))
    }
}

/// What comes of asking an address, if it comes in time.
async fn patiently<T>(
    url: &str,
    patience: Duration,
    whole: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| {
        Err(format!(
            "{url}: no whole answer within {} s",
            patience.as_secs()
        ))
    };
    tokio::time::timeout(patience, whole)
        .await
        .unwrap_or_else(late)
}

/// Where a redirection leads. (RFC 3986, 5.2, for the forms that mirrors use.)
pub(crate) fn resolve(from: &str, target: &str) -> String {
    let origin_end = from
        .find("://")
        .and_then(|at| from[at + 3..].find('/').map(|slash| at + 3 + slash))
        .unwrap_or(from.len());
    if target.contains("://") {
        target.to_owned()
    } else if target.starts_with("//") {
        let scheme = from.find("//").unwrap_or(0);
        format!("{}{target}", &from[..scheme])
    } else if target.starts_with('/') {
        format!("{}{target}", &from[..origin_end])
    } else {
        let dir = from[..].rfind('/').filter(|at| *at >= origin_end);
        format!("{}/{target}", &from[..dir.unwrap_or(origin_end)])
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

pub(crate) fn unpack(packing: Packing, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let reader: Box<dyn std::io::Read + '_> = match packing {
        Packing::Plain => Box::new(bytes),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            bytes,
            true,
            XZ_MEMORY_KIB,
        )),
    };
    if reader.take(UNPACKED_LIMIT).read_to_end(&mut out)? as u64 == UNPACKED_LIMIT {
        return Err(std::io::Error::other("it is larger than any index"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_leads_where_it_says() {
        let from = "http://a/debian/dists/x/InRelease";
        assert_eq!(resolve(from, "https://b/y"), "https://b/y");
        assert_eq!(resolve(from, "/y"), "http://a/y");
        assert_eq!(resolve(from, "//b/y"), "http://b/y");
        assert_eq!(resolve(from, "y"), "http://a/debian/dists/x/y");
        assert_eq!(resolve("http://a", "y"), "http://a/y");
    }

    #[test]
    fn what_is_packed_comes_out() {
        assert_eq!(unpack(Packing::Plain, b"abc").unwrap(), b"abc");
        // printf abc | gzip -n
        let gzip = hex::decode("1f8b08000000000000034b4c4a0600c241243503000000").unwrap();
        assert_eq!(unpack(Packing::Gzip, &gzip).unwrap(), b"abc");
        // printf abc | xz
        let xz = hex::decode(XZ).unwrap();
        assert_eq!(unpack(Packing::Xz, &xz).unwrap(), b"abc");
        assert!(unpack(Packing::Xz, &xz[..xz.len() / 2]).is_err());
        assert!(unpack(Packing::Gzip, b"abc").is_err());
    }

    const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a301000261626300002776271a4a09d82c00011b030b2fb9101fb6f37d010000000004595a";
}
