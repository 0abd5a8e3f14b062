//! Records by their names.

use std::collections::{BTreeMap, btree_map};
use std::ops::Index;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Records of one kind, by name. A copy shares the records with what it is a copy of until one of the two changes them: each
/// request works on a copy of all that there is, and most change nothing, or one record.
#[derive(Debug, PartialEq, Eq)]
pub struct Records<T: Eq>(Arc<BTreeMap<String, Arc<T>>>);

impl<T: Eq + Clone> Records<T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name).map(Arc::as_ref)
    }

    /// A record that is going to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        // A look first: what is not there changes nothing, and nothing is copied for it.
        self.contains_key(name)
            .then(|| Arc::make_mut(&mut self.0).get_mut(name).map(Arc::make_mut))
            .flatten()
    }

    /// The first record that is one of these, to be changed.
    pub fn find_mut(&mut self, is_one: impl Fn(&T) -> bool) -> Option<&mut T> {
        let name = self.iter().find(|(_, one)| is_one(one))?.0.clone();
        self.get_mut(&name)
    }

    /// Changes the records that are of these. What is the same afterwards is still shared.
    pub fn change(&mut self, is_one: impl Fn(&T) -> bool, mut how: impl FnMut(&mut T)) {
        let mut changed = Vec::new();
        for (name, one) in self.iter().filter(|(_, one)| is_one(one)) {
            let mut new = one.clone();
            how(&mut new);
            if new != *one {
                changed.push((name.clone(), new));
            }
        }
        for (name, new) in changed {
            self.insert(name, new);
        }
    }

    /// The record of this name, to be changed; this one if there is none.
    pub fn or_insert(&mut self, name: String, one: T) -> &mut T {
        let one = || Arc::new(one);
        let shared = Arc::make_mut(&mut self.0).entry(name).or_insert_with(one);
        Arc::make_mut(shared)
    }

    pub fn insert(&mut self, name: String, one: T) {
        Arc::make_mut(&mut self.0).insert(name, Arc::new(one));
    }

    pub fn remove(&mut self, name: &str) -> Option<T> {
        self.contains_key(name)
            .then(|| Arc::make_mut(&mut self.0).remove(name))
            .flatten()
            .map(Arc::unwrap_or_clone)
    }

    pub fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        if !self.values().all(&stays) {
            Arc::make_mut(&mut self.0).retain(|_, one| stays(one));
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn keys(&self) -> btree_map::Keys<'_, String, Arc<T>> {
        self.0.keys()
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator + Clone {
        self.0.values().map(Arc::as_ref)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&String, &T)> + Clone {
        self.0.iter().map(|(name, one)| (name, one.as_ref()))
    }
}

impl<T: Eq> Clone for Records<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Eq> Default for Records<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Eq + Clone> Index<&str> for Records<T> {
    type Output = T;

    fn index(&self, name: &str) -> &T {
        self.get(name)
            .expect("whoever indexes knows that it is there")
    }
}

impl<T: Eq + Serialize> Serialize for Records<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, one)| (name, one.as_ref())))
    }
}

impl<'de, T: Eq + Deserialize<'de>> Deserialize<'de> for Records<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<String, T>::deserialize(deserializer)?;
        let shared = all.into_iter().map(|(name, one)| (name, Arc::new(one)));
        Ok(Self(Arc::new(shared.collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Records<u32> {
        serde_json::from_str(r#"{"one":1,"two":2,"ten":10}"#).unwrap()
    }

    #[test]
    fn a_copy_shares_what_is_not_changed_and_sees_no_change() {
        let first = numbers();
        let mut copy = first.clone();
        assert!(copy.get_mut("three").is_none() && copy.remove("three").is_none());
        copy.change(|one| *one > 1, |one| *one *= 1);
        copy.retain(|one| *one < 100);
        assert!(Arc::ptr_eq(&first.0, &copy.0));
        copy.change(|one| *one > 1, |one| *one += u32::from(*one == 2));
        assert_eq!((first["two"], copy["two"]), (2, 3));
        assert!(Arc::ptr_eq(&first.0["ten"], &copy.0["ten"]));
        *copy.find_mut(|one| *one == 10).unwrap() = 11;
        copy.insert("new".to_owned(), 4);
        assert_eq!(copy.remove("one"), Some(1));
        copy.retain(|one| *one != 3);
        assert_eq!(copy.values().copied().collect::<Vec<_>>(), [4, 11]);
        assert_eq!(first, numbers());
        assert_ne!(first, copy);
    }

    #[test]
    fn their_text_is_that_of_a_map() {
        let text = serde_json::to_string(&numbers()).unwrap();
        assert_eq!(text, r#"{"one":1,"ten":10,"two":2}"#);
        let names: Vec<_> = numbers().keys().cloned().collect();
        assert_eq!(names, ["one", "ten", "two"]);
    }
}
