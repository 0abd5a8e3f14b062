"""Buckets and objects: what is put comes back, and what S3 refuses is refused with its code."""

import base64
import hashlib
import os
import unittest
import urllib.error
import urllib.request
import uuid
import xml.etree.ElementTree as ElementTree

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, MissingDependencyException
from wire import Case, client


def fetched(url, method="GET", body=None, headers=()):
    """Status, headers and body of a plain request, as a machine without an AWS client makes it."""
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def code_of(body):
    return ElementTree.fromstring(body).findtext("Code")


class Objects(Case):
    def setUp(self):
        super().setUp()
        self.s3 = client("s3")
        self.region = self.s3.meta.region_name
        self.bucket = self.make_bucket()

    def make_bucket(self):
        name = f"objects-{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": self.region})
        self.addCleanup(self.remove, name)
        return name

    def remove(self, name):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=name)
        for page in pages:
            for one in page.get("Contents", []):
                self.s3.delete_object(Bucket=name, Key=one["Key"])
        self.s3.delete_bucket(Bucket=name)

    def put(self, key, body=b"", **more):
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def get(self, key, **more):
        return self.s3.get_object(Bucket=self.bucket, Key=key, **more)

    def test_what_is_put_comes_back(self):
        body = os.urandom(300_000)
        put = self.put(
            "a key/with ünïcode+&.bin", body, ContentType="text/x", CacheControl="no-store", Metadata={"who": "me"}
        )
        self.assertEqual(put["ETag"], f'"{hashlib.md5(body).hexdigest()}"')
        self.assertIn("ChecksumCRC32", put)
        got = self.get("a key/with ünïcode+&.bin", ChecksumMode="ENABLED")
        self.assertEqual(got["Body"].read(), body)
        self.assertEqual(got["ChecksumCRC32"], put["ChecksumCRC32"])
        self.assertEqual((got["ContentType"], got["CacheControl"]), ("text/x", "no-store"))
        self.assertEqual((got["Metadata"], got["ETag"]), ({"who": "me"}, put["ETag"]))
        head = self.s3.head_object(Bucket=self.bucket, Key="a key/with ünïcode+&.bin")
        self.assertEqual((head["ContentLength"], head["ETag"]), (len(body), put["ETag"]))
        self.put("empty")
        self.assertEqual(self.get("empty")["Body"].read(), b"")
        self.assertEqual(self.get("empty")["ContentType"], "binary/octet-stream")
        self.put("empty", b"no more")
        self.assertEqual(self.get("empty")["Body"].read(), b"no more")
        self.s3.delete_object(Bucket=self.bucket, Key="empty")
        self.s3.delete_object(Bucket=self.bucket, Key="empty")
        error = self.refused("NoSuchKey", self.s3.get_object, Bucket=self.bucket, Key="empty")
        self.assertEqual(error["Error"]["Key"], "empty")
        self.refused("404", self.s3.head_object, Bucket=self.bucket, Key="empty")

    def test_every_checksum_is_computed_and_compared(self):
        body = b"some bytes"
        for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
            try:
                put = self.put("sum", body, ChecksumAlgorithm=algorithm)
            except MissingDependencyException:
                # botocore computes these two with a library that is not everywhere.
                self.assertIn(algorithm, ("CRC32C", "CRC64NVME"))
                continue
            self.assertTrue(put[f"Checksum{algorithm}"])
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        put = self.put("sum", body, ChecksumSHA256=digest)
        self.assertEqual(put["ChecksumSHA256"], digest)
        other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        put = {"Bucket": self.bucket, "Key": "sum", "Body": body}
        self.refused("BadDigest", self.s3.put_object, **put, ChecksumSHA256=other)
        self.refused("InvalidRequest", self.s3.put_object, **put, ChecksumSHA256="short")
        self.refused("BadDigest", self.s3.put_object, **put, ContentMD5=base64.b64encode(bytes(16)).decode())
        self.refused("InvalidDigest", self.s3.put_object, **put, ContentMD5="short")
        self.refused("NotImplemented", self.s3.put_object, **put, ChecksumXXHASH64="AAAAAAAAAAA=")
        # CRC-64/NVME of "123456789" (catalogue of parametrised CRC algorithms), computed where no checksum is given.
        quiet = client_without_checksums()
        quiet.put_object(Bucket=self.bucket, Key="sum", Body=b"123456789")
        got = self.s3.head_object(Bucket=self.bucket, Key="sum", ChecksumMode="ENABLED")
        self.assertEqual(base64.b64decode(got["ChecksumCRC64NVME"]).hex(), "ae8b14860a799888")

    def test_ranges_and_conditions(self):
        etag = self.put("digits", b"0123456789")["ETag"]
        got = self.get("digits", Range="bytes=2-4")
        self.assertEqual((got["Body"].read(), got["ContentRange"]), (b"234", "bytes 2-4/10"))
        self.assertEqual(got["ResponseMetadata"]["HTTPStatusCode"], 206)
        self.assertEqual(self.get("digits", Range="bytes=-3")["Body"].read(), b"789")
        self.assertEqual(self.get("digits", Range="bytes=8-")["Body"].read(), b"89")
        self.assertEqual(self.get("digits", Range="lines=1-2")["Body"].read(), b"0123456789")
        at = {"Bucket": self.bucket, "Key": "digits"}
        self.refused("InvalidRange", self.s3.get_object, **at, Range="bytes=10-")
        self.assertEqual(self.get("digits", IfMatch=etag)["ETag"], etag)
        self.refused("PreconditionFailed", self.s3.get_object, **at, IfMatch='"other"')
        self.refused("304", self.s3.get_object, **at, IfNoneMatch=etag)
        self.refused("304", self.s3.get_object, **at, IfModifiedSince=self.get("digits")["LastModified"])
        self.refused("PreconditionFailed", self.s3.get_object, **at, IfUnmodifiedSince="2020-01-01T00:00:00Z")
        self.refused("PreconditionFailed", self.s3.put_object, **at, Body=b"x", IfNoneMatch="*")
        self.refused("PreconditionFailed", self.s3.put_object, **at, Body=b"x", IfMatch='"other"')
        self.refused("NoSuchKey", self.s3.put_object, Bucket=self.bucket, Key="none", Body=b"x", IfMatch=etag)
        self.refused("PreconditionFailed", self.s3.delete_object, **at, IfMatch='"other"')
        self.assertEqual(self.get("digits")["Body"].read(), b"0123456789")
        self.put("digits", b"x", IfMatch=etag)
        self.put("fresh", b"x", IfNoneMatch="*")

    def test_listings_have_pages_prefixes_and_delimiters(self):
        keys = ["a", "b/1", "b/2", "b/c/3", "d e&<", "ü/4"]
        for key in keys:
            self.put(key, key.encode())

        def listed(**more):
            pages = list(self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **more))
            found = [one["Key"] for page in pages for one in page.get("Contents", [])]
            common = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])]
            return found, common, len(pages)

        self.assertEqual(listed(), (keys, [], 1))
        self.assertEqual(listed(PaginationConfig={"PageSize": 2}), (keys, [], 3))
        self.assertEqual(listed(Delimiter="/", PaginationConfig={"PageSize": 1}), (["a", "d e&<"], ["b/", "ü/"], 4))
        self.assertEqual(listed(Prefix="b/", Delimiter="/"), (["b/1", "b/2"], ["b/c/"], 1))
        self.assertEqual(listed(StartAfter="b/2"), (["b/c/3", "d e&<", "ü/4"], [], 1))
        one = self.s3.list_objects_v2(Bucket=self.bucket, MaxKeys=1, FetchOwner=True)
        self.assertTrue(one["IsTruncated"])
        self.assertEqual((one["Contents"][0]["Size"], len(one["Contents"][0]["Owner"]["ID"])), (1, 64))
        self.refused("InvalidArgument", self.s3.list_objects_v2, Bucket=self.bucket, ContinuationToken="odd")

    def test_buckets(self):
        found = [one["Name"] for one in self.s3.list_buckets()["Buckets"]]
        self.assertIn(self.bucket, found)
        head = self.s3.head_bucket(Bucket=self.bucket)
        self.assertEqual(head["BucketRegion"], self.region)
        create = {"LocationConstraint": self.region}
        self.refused(
            "BucketAlreadyOwnedByYou", self.s3.create_bucket, Bucket=self.bucket, CreateBucketConfiguration=create
        )
        self.refused("IllegalLocationConstraintException", self.s3.create_bucket, Bucket=f"x-{self.bucket[:20]}")
        self.refused(
            "InvalidBucketName", self.s3.create_bucket, Bucket="192.168.5.4", CreateBucketConfiguration=create
        )
        self.put("one")
        self.refused("BucketNotEmpty", self.s3.delete_bucket, Bucket=self.bucket)
        gone = f"gone-{uuid.uuid4().hex}"
        error = self.refused("NoSuchBucket", self.s3.list_objects_v2, Bucket=gone)
        self.assertEqual(error["Error"]["BucketName"], gone)
        self.refused("NoSuchBucket", self.s3.put_object, Bucket=gone, Key="x", Body=b"x")
        self.refused("404", self.s3.head_bucket, Bucket=gone)
        mine, other = client("sts").get_caller_identity()["Account"], "123456789012"
        self.s3.head_bucket(Bucket=self.bucket, ExpectedBucketOwner=mine)
        self.refused("AccessDenied", self.s3.list_objects_v2, Bucket=self.bucket, ExpectedBucketOwner=other)
        pages = list(self.s3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 1}))
        names = [one["Name"] for page in pages for one in page["Buckets"]]
        self.assertEqual(names, sorted(names))
        self.assertIn(self.bucket, names)

    def test_a_bucket_is_asked_for_in_its_region(self):
        # botocore goes where the answer sends it.
        there = client("s3", region_name="eu-west-1")
        self.put("one", b"1")
        self.assertEqual(there.get_object(Bucket=self.bucket, Key="one")["Body"].read(), b"1")

    def test_large_files_go_in_parts(self):
        body = os.urandom(11 * 1024 * 1024 + 7)
        with open(f"{os.environ['HOME']}/large", "wb") as file:
            file.write(body)
        config = TransferConfig(multipart_threshold=5 * 1024 * 1024, multipart_chunksize=5 * 1024 * 1024)
        self.s3.upload_file(file.name, self.bucket, "large", Config=config)
        head = self.s3.head_object(Bucket=self.bucket, Key="large")
        self.assertTrue(head["ETag"].endswith('-3"'), head)
        self.s3.download_file(self.bucket, "large", file.name + ".back", Config=config)
        with open(file.name + ".back", "rb") as back:
            self.assertEqual(hashlib.sha256(back.read()).digest(), hashlib.sha256(body).digest())

    def test_parts_are_held_to_their_list(self):
        at = {"Bucket": self.bucket, "Key": "parts"}
        upload = {**at, "UploadId": self.s3.create_multipart_upload(**at)["UploadId"]}
        first = self.s3.upload_part(**upload, PartNumber=1, Body=b"small")["ETag"]
        second = self.s3.upload_part(**upload, PartNumber=2, Body=b"second")["ETag"]

        def complete(*parts, **more):
            listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
            return {**upload, "MultipartUpload": {"Parts": listed}, **more}

        self.refused("EntityTooSmall", self.s3.complete_multipart_upload, **complete((1, first), (2, second)))
        self.refused("InvalidPartOrder", self.s3.complete_multipart_upload, **complete((2, second), (1, first)))
        self.refused("InvalidPart", self.s3.complete_multipart_upload, **complete((1, second)))
        self.refused("InvalidPart", self.s3.complete_multipart_upload, **complete((3, first)))
        self.refused("InvalidArgument", self.s3.upload_part, **upload, PartNumber=10_001, Body=b"x")
        self.refused("MalformedXML", self.s3.complete_multipart_upload, **complete())
        done = self.s3.complete_multipart_upload(**complete((2, second)))
        self.assertTrue(done["ETag"].endswith('-1"'))
        self.assertEqual(self.get("parts")["Body"].read(), b"second")
        self.refused("NoSuchUpload", self.s3.upload_part, **upload, PartNumber=1, Body=b"x")
        again = {**at, "UploadId": self.s3.create_multipart_upload(**at)["UploadId"]}
        self.s3.abort_multipart_upload(**again)
        self.refused("NoSuchUpload", self.s3.abort_multipart_upload, **again)
        self.refused("NoSuchUpload", self.s3.abort_multipart_upload, **at, UploadId="../../x")

    def test_presigned_urls(self):
        self.put("shared", b"0123456789")
        signer = client_that_signs()
        params = {"Bucket": self.bucket, "Key": "shared"}
        url = signer.generate_presigned_url("get_object", Params=params, ExpiresIn=60)
        status, headers, body = fetched(url)
        self.assertEqual((status, body, headers["Content-Length"]), (200, b"0123456789", "10"))
        status, headers, body = fetched(url, headers={"Range": "bytes=0-1"})
        self.assertEqual((status, body), (206, b"01"))
        named = {**params, "ResponseContentType": "text/y"}
        _, headers, _ = fetched(signer.generate_presigned_url("get_object", Params=named))
        self.assertEqual(headers["Content-Type"], "text/y")

        def refused(url, status, code, method="GET"):
            got, _, body = fetched(url, method)
            self.assertEqual((got, code_of(body)), (status, code), body)
            return body

        refused(url.replace("shared", "other"), 403, "SignatureDoesNotMatch")
        refused(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), 403, "SignatureDoesNotMatch")
        refused(url, 403, "SignatureDoesNotMatch", "DELETE")
        refused(url.split("?", maxsplit=1)[0], 403, "AccessDenied")
        refused(url.split("&X-Amz-Signature", maxsplit=1)[0], 400, "AuthorizationQueryParametersError")
        for expires in (604_801, -1, "x"):
            wrong = url.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")
            refused(wrong, 400, "AuthorizationQueryParametersError")
        put = signer.generate_presigned_url("put_object", Params={"Bucket": self.bucket, "Key": "new"}, ExpiresIn=60)
        self.assertEqual(fetched(put, "PUT", b"from outside")[0], 200)
        self.assertEqual(self.get("new")["Body"].read(), b"from outside")

    def test_what_is_not_acted_on_is_refused_by_name(self):
        at = {"Bucket": self.bucket, "Key": "plain", "Body": b"x"}
        self.put("plain", b"x", ServerSideEncryption="AES256", StorageClass="STANDARD", RequestPayer="requester")
        for name, value, header in [
            ("ACL", "public-read", "x-amz-acl"),
            ("Tagging", "a=b", "x-amz-tagging"),
            ("ServerSideEncryption", "aws:kms", "x-amz-server-side-encryption"),
            ("StorageClass", "GLACIER", "x-amz-storage-class"),
            ("WebsiteRedirectLocation", "/x", "x-amz-website-redirect-location"),
        ]:
            error = self.refused("NotImplemented", self.s3.put_object, **at, **{name: value})
            self.assertIn(header, error["Error"]["Message"])
        self.refused("NotImplemented", self.s3.get_bucket_acl, Bucket=self.bucket)
        self.refused("NotImplemented", self.s3.list_objects, Bucket=self.bucket)
        self.refused(
            "NotImplemented", self.s3.copy_object, Bucket=self.bucket, Key="copy", CopySource=f"{self.bucket}/plain"
        )
        self.refused("InvalidArgument", self.s3.get_object, Bucket=self.bucket, Key="plain", VersionId="v1")
        self.assertEqual(self.get("plain", VersionId="null")["Body"].read(), b"x")
        self.refused("KeyTooLongError", self.s3.put_object, Bucket=self.bucket, Key="k" * 1025, Body=b"")
        self.refused("MetadataTooLarge", self.s3.put_object, **at, Metadata={"a": "x" * 2048})


def client_that_signs():
    return boto3.client("s3", config=Config(signature_version="s3v4"))


def client_without_checksums():
    return boto3.client("s3", config=Config(request_checksum_calculation="when_required"))


class Strangers(Case):
    def test_wrong_keys_and_old_signatures_are_refused(self):
        stranger = client("s3", aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="x")
        self.refused("InvalidAccessKeyId", stranger.list_buckets)
        keys = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"]}
        liar = client("s3", **keys, aws_secret_access_key="wrong")
        self.refused("SignatureDoesNotMatch", liar.list_buckets)
        keys["aws_secret_access_key"] = os.environ["AWS_SECRET_ACCESS_KEY"]
        with_token = client("s3", **keys, aws_session_token="token")
        self.refused("InvalidToken", with_token.list_buckets)
        old = boto3.client("s3", config=Config(signature_version="s3", retries={"max_attempts": 0}))
        try:
            old.list_buckets()
            self.fail("it was accepted")
        except ClientError as error:
            self.assertIn("Please use AWS4-HMAC-SHA256", str(error))


if __name__ == "__main__":
    unittest.main()
