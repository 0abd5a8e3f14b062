//! The keys of a map and the words of a choice, as the derives of serde name them.

use serde::de::value::Error as Unused;
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// What a file writes for `T`, in order of declaration: the keys of a struct, the words of an enum.
pub fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &[&str] = &[];
    // Nothing is read: a type asks for its keys first.
    drop(T::deserialize(Asked(&mut keys)));
    keys
}

/// Notes what it is asked for, and has nothing to give.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Unused;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unused> {
        Err(Unused::custom(""))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unused> {
        *self.0 = keys;
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unused> {
        *self.0 = words;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BootMode, Declaration, Distribution};
    use super::keys;

    #[test]
    fn keys_and_words_are_those_that_a_file_writes_in_order_of_declaration() {
        assert_eq!(keys::<Distribution>(), ["regions", "accounts"]);
        assert_eq!(
            keys::<Declaration<i64>>(),
            [
                "type",
                "default",
                "description",
                "enum",
                "pattern",
                "secret"
            ]
        );
        assert_eq!(keys::<BootMode>(), ["uefi", "uefi-preferred"]);
    }
}
