//! A value that most of its owners never need.

use std::ops::Deref;

/// What an empty value of a type is, for [`Seldom`].
pub trait Empty: Default + 'static {
    /// One for all that have none.
    const EMPTY: &'static Self;
}

impl<T: 'static> Empty for Vec<T> {
    const EMPTY: &'static Self = &Vec::new();
}

impl<T: 'static> Empty for std::collections::VecDeque<T> {
    const EMPTY: &'static Self = &std::collections::VecDeque::new();
}

impl<K: 'static, V: 'static> Empty for std::collections::BTreeMap<K, V> {
    const EMPTY: &'static Self = &std::collections::BTreeMap::new();
}

/// A value that is nearly always empty: one word then, and a box of its own once it is made. It is read as the value
/// itself, and changed through [`Seldom::make`].
#[derive(Clone, Debug)]
pub struct Seldom<T>(Option<Box<T>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom(None)
    }
}

impl<T: Empty> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::EMPTY)
    }
}

impl<T: Empty> Seldom<T> {
    /// To be changed: made, if it is not there yet.
    pub fn make(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }

    /// To be changed, if it is there: one that is not has nothing to take out.
    pub fn made(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Whether it takes a word and no more.
    pub fn is_unmade(&self) -> bool {
        self.0.is_none()
    }

    /// What it is, leaving it empty and unmade.
    pub fn take(&mut self) -> T {
        self.0.take().map(|value| *value).unwrap_or_default()
    }
}

impl<T: 'static> Seldom<Vec<T>> {
    /// Keeps those of which `keep` is true.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        if let Some(list) = self.made() {
            list.retain(keep);
        }
    }
}

impl<T> From<Vec<T>> for Seldom<Vec<T>> {
    fn from(value: Vec<T>) -> Self {
        Seldom((!value.is_empty()).then(|| Box::new(value)))
    }
}

impl<K: Ord, V> From<std::collections::BTreeMap<K, V>> for Seldom<std::collections::BTreeMap<K, V>> {
    fn from(value: std::collections::BTreeMap<K, V>) -> Self {
        Seldom((!value.is_empty()).then(|| Box::new(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_one_is_a_word() {
        let mut seldom = Seldom::<Vec<u64>>::default();
        assert_eq!(size_of_val(&seldom), size_of::<usize>());
        assert!(seldom.is_empty() && seldom.is_unmade());
        seldom.make().push(1);
        assert_eq!(*seldom, [1]);
        seldom.retain(|n| *n == 1);
        assert_eq!(seldom.take(), [1]);
        assert!(seldom.is_unmade() && seldom.made().is_none() && Seldom::from(Vec::<u8>::new()).is_unmade());
    }
}
