//! Numbers of bytes, as people read them.

/// The units, each 1024 times the one before.
const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// As `512 B`, `3.0 MiB` or `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => in_unit(bytes, 0),
        0x10_0000..0x4000_0000 => in_unit(bytes, 2),
        _ => in_unit(bytes, 3),
    }
}

/// A smaller and a larger number, in the largest unit in which one sees that they differ.
pub fn sizes(smaller: u64, larger: u64) -> (String, String) {
    let fits = |unit: &usize| larger >> (10 * unit) > 0;
    let apart = |unit| (in_unit(smaller, unit), in_unit(larger, unit));
    let mut pairs = (0..UNITS.len()).rev().filter(fits).map(apart);
    pairs.find(|(one, other)| one != other).unwrap_or_else(|| apart(0))
}

fn in_unit(bytes: u64, unit: usize) -> String {
    if unit == 0 {
        return format!("{bytes} B");
    }
    let unit_bytes = (1_u64 << (10 * unit)) as f64;
    format!("{:.1} {}", bytes as f64 / unit_bytes, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sizes_are_told_in_a_unit_in_which_they_differ() {
        let words = |smaller, larger| {
            let (smaller, larger) = sizes(smaller, larger);
            format!("{smaller} < {larger}")
        };

        assert_eq!(words(3 << 20, 256 << 20), "3.0 MiB < 256.0 MiB");
        assert_eq!(words(0, 1 << 30), "0.0 GiB < 1.0 GiB");
        assert_eq!(words(1_200_000, 1_677_721), "1.1 MiB < 1.6 MiB");
        assert_eq!(words((1 << 20) + 4096, (1 << 20) + 16_384), "1028.0 KiB < 1040.0 KiB");
        assert_eq!(words(4095, 4096), "4095 B < 4096 B");
        assert_eq!(words(0, 0), "0 B < 0 B");
    }

    #[test]
    fn a_size_is_told_in_a_unit_of_its_own() {
        assert_eq!(
            [size(0), size(700), size(3 << 20), size(10 << 30)],
            ["0 B", "700 B", "3.0 MiB", "10.0 GiB"]
        );
    }
}
