//! The kinds of extensions that a configuration may name.

use sdk::{HookKind, InterceptorKind};

/// What `use = "..."` may say in `[[interceptor]]` and `[[hook]]`.
///
/// A list of interceptors alone stands for them and the built-in hooks.
#[derive(Clone, Debug)]
pub struct Kinds<'k> {
    /// Kinds of interceptors.
    pub interceptors: &'k [InterceptorKind],
    /// Kinds of hooks.
    pub hooks: Vec<HookKind>,
}

impl<'k> From<&'k [InterceptorKind]> for Kinds<'k> {
    fn from(interceptors: &'k [InterceptorKind]) -> Self {
        Self {
            interceptors,
            hooks: crate::built_in_hooks(),
        }
    }
}

impl<'k, const N: usize> From<&'k [InterceptorKind; N]> for Kinds<'k> {
    fn from(interceptors: &'k [InterceptorKind; N]) -> Self {
        Self::from(interceptors.as_slice())
    }
}

impl<'k> From<&'k Vec<InterceptorKind>> for Kinds<'k> {
    fn from(interceptors: &'k Vec<InterceptorKind>) -> Self {
        Self::from(interceptors.as_slice())
    }
}

impl<'k> Kinds<'k> {
    /// The same and further hooks.
    #[must_use]
    pub fn with_hooks(mut self, hooks: impl IntoIterator<Item = HookKind>) -> Self {
        self.hooks.extend(hooks);
        self
    }
}
