//! Quantities that could be taken for one another, each a type; sizes and durations to and from text.

/// A position in a vault file, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// The number of a data record within its segment: the planner's count of chunks, and the record's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkSeq(pub(crate) u64);

/// One KiB, one MiB, one GiB in bytes.
pub(crate) const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub(crate) const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// One TiB in bytes.
const TIB: u64 = 1 << 40;
/// One PiB in bytes.
const PIB: u64 = 1 << 50;
/// One EiB in bytes.
const EIB: u64 = 1 << 60;

/// The most digits behind the point of a size: with 18 of them the product with an EiB still fits into 128 bits.
const MAX_FRACTION_DIGITS: usize = 18;

/// Reads a size: a number, with a decimal fraction if there is a unit, and `B`, `K`, `M`, `G`, `T`, `P`, `E` or `KiB`,
/// `MiB` and so on behind it, in either case. Units are powers of 1024; what is left of a byte is cut off.
///
/// `KB` and its like are refused: half of the world reads 1000 there and the other half 1024.
///
/// # Errors
/// A sentence that names the text and what is wrong with it, for a person who typed it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = |why: &str| format!("invalid size {text:?}: {why}");
    let trimmed = text.trim();
    let number_len = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit_bytes = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "t" | "tib" => TIB,
        "p" | "pib" => PIB,
        "e" | "eib" => EIB,
        "kb" | "mb" | "gb" | "tb" | "pb" | "eb" => {
            return Err(wrong("write K, M, G or KiB, MiB, GiB (powers of 1024)"));
        }
        _ => return Err(wrong("expected a number and a unit such as K, M, G or KiB, MiB, GiB")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(wrong("expected a number such as 4 or 1.5, then a unit such as K, M, G"));
    }
    if !fraction.is_empty() && unit_bytes == 1 {
        return Err(wrong("a number of bytes has no fraction"));
    }
    if fraction.len() > MAX_FRACTION_DIGITS {
        return Err(wrong("too many digits behind the point"));
    }
    let too_large = || wrong("too large");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let fraction_bytes = if fraction.is_empty() {
        0
    } else {
        let digits: u128 = fraction.parse().map_err(|_| too_large())?;
        let scale = fraction.bytes().fold(1_u128, |scale, _| scale * 10);
        // Below `unit_bytes`, because `digits` is below `scale`.
        u64::try_from(digits * u128::from(unit_bytes) / scale).map_err(|_| too_large())?
    };
    whole.checked_mul(unit_bytes).and_then(|bytes| bytes.checked_add(fraction_bytes)).ok_or_else(too_large)
}

/// A size for people: `0 B`, `1023 B`, `4 MiB`, `1.2 GiB`; rounded to a tenth of its unit, which is a power of 1024.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] =
        [(KIB, "KiB"), (MIB, "MiB"), (GIB, "GiB"), (TIB, "TiB"), (PIB, "PiB"), (EIB, "EiB")];
    if bytes < KIB {
        return format!("{bytes} B");
    }
    let tenths_of = |unit: u64| (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    // The first unit in which the rounded number stays below 1024: 1023.96 KiB is 1 MiB. EiB always fits: u64 ends at
    // 16.
    let (tenths, name) = UNITS
        .iter()
        .map(|&(unit, name)| (tenths_of(unit), name))
        .find(|&(tenths, _)| tenths < 10_240)
        .unwrap_or((tenths_of(EIB), "EiB"));
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

/// A rate for people: `97.6 MiB/s`. What is no rate (negative, not a number) is shown as none.
#[must_use]
pub fn format_rate(bytes_per_sec: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts from float saturate: NaN and negative become 0, infinity u64::MAX; it is rounded already"
    )]
    let bytes = bytes_per_sec.round() as u64;
    format!("{}/s", format_size(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024_and_either_case() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("256K", 256 * KIB),
            ("4M", 4 * MIB),
            ("4m", 4 * MIB),
            (" 64 MiB ", 64 * MIB),
            ("64mib", 64 * MIB),
            ("1.5G", 1536 * MIB),
            ("0.5k", 512),
            ("1.0001K", 1024),
            ("0.000000000000000001E", 1),
            ("2T", 2 * TIB),
            ("1P", PIB),
            ("15E", 15 * EIB),
            ("15.999E", 18_445_591_152_204_944_769),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_name() {
        for text in [
            "",
            " ",
            "K",
            ".5K",
            "1.K",
            "1.",
            "1..5K",
            "1.2.3K",
            "-1",
            "+1",
            "1e3",
            "4KB",
            "4GB",
            "4 M M",
            "1.5",
            "1.5B",
            "16E",
            "18446744073709551616",
            "99999999999999999999999K",
            "0.1234567890123456789K",
            "٣K",
            "4\u{a0}ſ",
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error} does not name {text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_with_at_most_one_decimal_and_rounding_never_shows_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1075, "1 KiB"),
            (1076, "1.1 KiB"),
            (1536, "1.5 KiB"),
            (4 * MIB, "4 MiB"),
            (MIB - 1, "1 MiB"),
            (GIB - 1, "1 GiB"),
            (1_288_490_188, "1.2 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(format_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn rates_are_shown_whatever_the_number() {
        assert_eq!(format_rate(97.6 * 1_048_576.0), "97.6 MiB/s");
        assert_eq!(format_rate(0.0), "0 B/s");
        assert_eq!(format_rate(f64::NAN), "0 B/s");
        assert_eq!(format_rate(-5.0), "0 B/s");
        assert_eq!(format_rate(f64::INFINITY), "16 EiB/s");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn a_number_of_bytes_is_read_as_it_is(bytes: u64) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }
    }
}
