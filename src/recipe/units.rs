//! Durations, sizes, modes and names as recipes write them.

use std::time::Duration;

/// A duration in JSON: whole seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(duration.as_secs())
    }

    /// # Errors
    /// Not a number of seconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

/// The longest time-out of a step: what `AWS-RunShellScript` takes as `executionTimeout` (172800 seconds).
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(172_800);

/// `90s`, `10m`, `1h30m`. More than nothing, at most 48 hours.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HOW: &str = "write a number with its unit, such as 90s, 10m or 1h30m";
    let mut seconds: u64 = 0;
    let mut rest = text;
    // The units must come in this order, each once, so "1m1m" and "5s1h" are refused.
    for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 && rest[digits..].starts_with(unit) {
            let number: u64 = rest[..digits].parse().map_err(|_| HOW.to_string())?;
            seconds = number
                .checked_mul(factor)
                .and_then(|n| n.checked_add(seconds))
                .ok_or("that is too long")?;
            rest = &rest[digits + 1..];
        }
    }
    if !rest.is_empty() || text.is_empty() {
        return Err(HOW.into());
    }
    let duration = Duration::from_secs(seconds);
    if duration.is_zero() || duration > LONGEST_TIMEOUT {
        return Err("write something between 1s and 48h, the limits of AWS-RunShellScript".into());
    }
    Ok(duration)
}

/// `14d` or `36h`: how old something may become; more than nothing, at most ten years.
pub fn age(text: &str) -> Result<Duration, String> {
    const HOW: &str = "write a number of days or hours, such as 14d or 36h";
    let (digits, hours) = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(digits), _) => (digits, 24),
        (_, Some(digits)) => (digits, 1),
        _ => return Err(HOW.into()),
    };
    let number: u64 = digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or(HOW)?;
    match number.checked_mul(hours) {
        Some(hours @ 1..=87_600) => Ok(Duration::from_secs(hours * 3600)),
        _ => Err("write something between 1h and 3650d".into()),
    }
}

/// `8GiB`: whole gibibytes, the unit of EBS volumes; 1 to 16384, the limits of a gp2 volume.
pub fn size_gib(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let Ok(number) = digits.parse::<u32>() else {
        return Err("write whole gibibytes, such as 8GiB".into());
    };
    if text != format!("{number}GiB") {
        return Err(format!(
            "write {number}GiB: volumes come in whole gibibytes"
        ));
    }
    if !(1..=16_384).contains(&number) {
        return Err("write something between 1GiB and 16384GiB, the limits of a gp2 volume".into());
    }
    Ok(number)
}

/// `"0644"`: permission bits in octal, with or without setuid, setgid and sticky.
pub fn mode(text: &str) -> Result<u32, String> {
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let parsed = if octal {
        u32::from_str_radix(text, 8).ok()
    } else {
        None
    };
    parsed.ok_or_else(|| "write three or four octal digits in quotes, such as \"0644\"".into())
}

/// Whether a text is a sha256 in hex, in lower case.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text is a URL of HTTP, with a host, of characters that a URL may have (RFC 3986, 2).
#[must_use]
pub fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~%:/?#[]@!$&'()*+,;=".contains(c);
    rest.is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && rest.chars().all(good)
    })
}

/// Ids of images: `ami-` and 8 or 17 hexadecimal digits.
pub fn is_ami_id(text: &str) -> bool {
    text.strip_prefix("ami-").is_some_and(|hex| {
        matches!(hex.len(), 8 | 17)
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// Names of recipes and thus parts of names of images: lower-case letters, digits and hyphens, a letter first, at most
/// 64 characters (an AMI name has at most 128, with version and digest in it).
pub fn is_recipe_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Names of parameters: what a template can name, in lower case.
pub fn is_parameter_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Names of environment variables (POSIX, "Name").
pub fn is_env_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Names of users and groups as Debian's adduser takes them.
pub fn is_user_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// A Debian package name (Debian Policy 5.6.1), with an architecture (`:arm64`) or an exact version (`=1.2-3`) if given.
pub fn is_package(text: &str) -> bool {
    let (name, version) = text
        .split_once('=')
        .map_or((text, None), |(name, version)| (name, Some(version)));
    let (name, arch) = name
        .split_once(':')
        .map_or((name, None), |(name, arch)| (name, Some(arch)));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() >= 2
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"+-.".contains(&b))
        && arch.is_none_or(|arch| !arch.is_empty() && arch.bytes().all(|b| plain(b) || b == b'-'))
        && version.is_none_or(|version| {
            version.starts_with(|c: char| c.is_ascii_digit())
                && version
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b))
        })
}

/// A package as dnf takes it: a name of letters, digits and `._+-`, with version and architecture if given.
pub fn is_rpm(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-:~^".contains(&b))
}

/// Whether a text is the name of a service of systemd (systemd.unit(5)); a template needs its instance.
pub fn is_service(name: &str) -> bool {
    name.len() <= 255
        && name.strip_suffix(".service").is_some_and(|stem| {
            !stem.is_empty()
                && !stem.ends_with('@')
                && stem
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || r":_.\@-".contains(c))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(age("36h"), Ok(Duration::from_secs(36 * 3600)));
        for wrong in [
            "",
            "d",
            "0d",
            "+1d",
            "1w",
            "1.5d",
            "3651d",
            "99999999999999999999d",
            "14",
        ] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("48h"), Ok(LONGEST_TIMEOUT));
        for bad in [
            "",
            "10",
            "m",
            "1m1m",
            "5s1h",
            "0s",
            "49h",
            "-1s",
            "1.5h",
            "1d",
            "99999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size_gib("8GiB"), Ok(8));
        for bad in [
            "8", "8G", "8GB", "8 GiB", "08GiB", "0GiB", "16385GiB", "GiB", "-1GiB", "8.5GiB",
        ] {
            assert!(size_gib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("4755"), Ok(0o4755));
        for bad in ["", "644 ", "0888", "rw", "00644", "0o644", "+755"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn packages() {
        for good in [
            "git",
            "java-21-amazon-corretto",
            "gcc-c++",
            "git-2.40.1-1.amzn2023.0.1.x86_64",
        ] {
            assert!(is_rpm(good), "{good}");
        }
        for bad in ["", "a", "-y", "git curl", "git;id", "@core", "git=1"] {
            assert!(!is_rpm(bad), "{bad}");
        }
        for good in ["git", "g++", "libc6:arm64", "nginx=1.22.1-9+deb12u1", "0ad"] {
            assert!(is_package(good), "{good}");
        }
        for bad in [
            "", "a", "Git", "-o", "git curl", "git;id", "x=", "git=;id", "gi\nt", "g:=",
        ] {
            assert!(!is_package(bad), "{bad}");
        }
    }
}
