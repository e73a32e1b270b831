//! How does a fixed structure give and take its fields? By offsets that are checked when the program is compiled.

/// The `N` bytes at offset `AT` of a structure of `LEN` bytes.
pub(super) fn get<const AT: usize, const N: usize, const LEN: usize>(bytes: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "the field lies inside the structure") };
    let mut field = [0; N];
    field.copy_from_slice(&bytes[AT..AT + N]);
    field
}

/// Puts `N` bytes at offset `AT` of a structure of `LEN` bytes.
pub(super) fn put<const AT: usize, const N: usize, const LEN: usize>(bytes: &mut [u8; LEN], field: [u8; N]) {
    const { assert!(AT + N <= LEN, "the field lies inside the structure") };
    bytes[AT..AT + N].copy_from_slice(&field);
}

/// Whether reserved bytes are what they must be.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got_and_nothing_else_changes() {
        let mut bytes = [0; 8];
        put::<3, _, _>(&mut bytes, 0x0201_u16.to_le_bytes());
        assert_eq!(bytes, [0, 0, 0, 1, 2, 0, 0, 0]);
        assert_eq!(u16::from_le_bytes(get::<3, _, _>(&bytes)), 0x0201);
        assert!(all_zero(&bytes[..3]) && !all_zero(&bytes[..4]) && all_zero(&[]));
    }
}
