//! S3 as the SDK of Rust asks it: streamed bodies, buckets in host names, presigned URLs and their end.

use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use piaas_bake::clock::{Clock as _, JumpingClock};
use piaas_bake::localcloud::SECRET_KEY;

use super::{Time, World, code, config, noon};

/// A client that names buckets in hosts, as on AWS; and a bucket.
async fn client(world: &World) -> aws_sdk_s3::Client {
    let config = config(world.cloud.clone(), world.clock.clone(), SECRET_KEY);
    let client = aws_sdk_s3::Client::new(&config);
    client
        .create_bucket()
        .bucket("web-one")
        .send()
        .await
        .unwrap();
    client
}

/// A body from a file is streamed: it comes in chunks with its checksum behind them.
#[tokio::test]
async fn a_streamed_body_arrives_with_the_checksum_behind_it() {
    let world = World::new();
    let client = client(&world).await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let path = world.directory.path().join("body");
    std::fs::write(&path, &bytes).unwrap();
    let put = client
        .put_object()
        .bucket("web-one")
        .key("a key/ü+&.bin")
        .content_encoding("gzip")
        .body(ByteStream::from_path(&path).await.unwrap());
    let put = put.send().await.unwrap();
    assert!(put.checksum_crc32().is_some(), "{put:?}");
    let got = client
        .get_object()
        .bucket("web-one")
        .key("a key/ü+&.bin")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.checksum_crc32(), put.checksum_crc32());
    // The encoding of the wire is not the object's.
    assert_eq!(got.content_encoding(), Some("gzip"));
    assert!(got.body.collect().await.unwrap().to_vec() == bytes);
    let listed = client.list_objects_v2().bucket("web-one").send().await;
    let listed = listed.unwrap();
    assert_eq!(listed.contents()[0].key(), Some("a key/ü+&.bin"));
    // Nothing of what was on its way is left on the disk.
    let incoming = world.directory.path().join("s3/incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

async fn presigned(client: &aws_sdk_s3::Client, world: &World, seconds: u64) -> String {
    let start = aws_smithy_async::time::TimeSource::now(&Time(world.clock.clone()));
    let signed = client
        .get_object()
        .bucket("web-one")
        .key("shared")
        .presigned(
            PresigningConfig::builder()
                .start_time(start)
                .expires_in(Duration::from_secs(seconds))
                .build()
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(
        signed.headers().collect::<Vec<_>>(),
        [],
        "whoever has the URL needs no header"
    );
    signed.uri().to_owned()
}

/// Status and body of a plain request for a URL.
fn fetched(world: &World, url: &str) -> (u16, String) {
    let uri: http::Uri = url.parse().unwrap();
    let request = http::Request::builder()
        .uri(uri.path_and_query().unwrap().as_str())
        .header("host", uri.authority().unwrap().as_str())
        .body(bytes::Bytes::new())
        .unwrap();
    let response = world.cloud.handle(&request);
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    (response.status().as_u16(), body)
}

#[tokio::test]
async fn a_presigned_url_ends_with_its_time_or_its_object() {
    let world = World::new();
    let client = client(&world).await;
    let put = client.put_object().bucket("web-one").key("shared");
    put.body(ByteStream::from_static(b"shared"))
        .send()
        .await
        .unwrap();
    let url = presigned(&client, &world, 60).await;
    assert!(url.starts_with("https://web-one.s3.us-east-1.amazonaws.com/shared?"));
    assert_eq!(fetched(&world, &url), (200, "shared".to_owned()));
    let wrong = url.replace("/shared", "/other");
    let (status, body) = fetched(&world, &wrong);
    assert!(
        status == 403 && body.contains("<Code>SignatureDoesNotMatch</Code>"),
        "{body}"
    );

    world.clock.sleep(Duration::from_secs(59)).await;
    assert_eq!(fetched(&world, &url).0, 200);
    world.clock.sleep(Duration::from_secs(1)).await;
    let (status, body) = fetched(&world, &url);
    assert_eq!(status, 403);
    for part in [
        "<Code>AccessDenied</Code><Message>Request has expired</Message>",
        "<X-Amz-Expires>60</X-Amz-Expires>",
        "<Expires>2026-01-01T12:01:00Z</Expires>",
        "<ServerTime>2026-01-01T12:01:00Z</ServerTime>",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }

    // A week is the longest.
    let url = presigned(&client, &world, 604_800).await;
    assert_eq!(fetched(&world, &url).0, 200);
    client
        .delete_object()
        .bucket("web-one")
        .key("shared")
        .send()
        .await
        .unwrap();
    let (status, body) = fetched(&world, &url);
    assert!(
        status == 404 && body.contains("<Code>NoSuchKey</Code>"),
        "{body}"
    );
}

#[tokio::test]
async fn a_clock_that_is_wrong_and_a_key_that_is_wrong_are_refused() {
    let world = World::new();
    let client = client(&world).await;
    let late = JumpingClock::starting_at(noon() + jiff::SignedDuration::from_mins(16));
    let late = aws_sdk_s3::Client::new(&config(world.cloud.clone(), late, SECRET_KEY));
    let list = || late.list_objects_v2().bucket("web-one").send();
    assert_eq!(code(list().await), "RequestTimeTooSkewed");
    world.clock.sleep(Duration::from_secs(120)).await;
    list().await.unwrap();
    let liar = aws_sdk_s3::Client::new(&config(world.cloud.clone(), world.clock.clone(), "other"));
    let refused = liar.list_objects_v2().bucket("web-one").send().await;
    assert_eq!(code(refused), "SignatureDoesNotMatch");
    let gone = client
        .head_object()
        .bucket("web-one")
        .key("none")
        .send()
        .await;
    let gone = gone.unwrap_err();
    assert!(gone.as_service_error().unwrap().is_not_found(), "{gone:?}");
    assert_eq!(gone.code(), Some("NotFound"));
}
