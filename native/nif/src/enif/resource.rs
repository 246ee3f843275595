//! A resource type with the callbacks `dtor`, `stop` and `down` (erl_nif, "enif_init_resource_type").

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use rustler::sys;
use rustler::{Encoder, Env, Error, LocalPid, Monitor, NifResult, Term};

/// Data that lives in an Erlang resource. It does its own locking.
pub(crate) trait Resource: Sized + Send + Sync + 'static {
    const NAME: &'static CStr;

    /// Where the VM's handle of the type is kept.
    fn resource_type() -> &'static ResourceType;

    /// A process that was monitored with [`Handle::monitor`] has died. No lock of ours is held.
    fn down(handle: &Handle<Self>, env: Env<'_>, monitor: &Monitor);
}

/// The VM's handle of a resource type, set once by [`register`].
#[derive(Debug, Default)]
pub(crate) struct ResourceType(OnceLock<usize>);

impl ResourceType {
    pub(crate) const fn new() -> Self {
        ResourceType(OnceLock::new())
    }

    fn pointer(&self) -> *const sys::ErlNifResourceType {
        let address = *self.0.get().expect("the resource type is registered by load");
        address as *const sys::ErlNifResourceType
    }
}

/// Registers the type. Only from the `load` callback.
pub(crate) fn register<T: Resource>(env: Env<'_>) -> bool {
    const { assert!(align_of::<T>() <= align_of::<u64>(), "enif_alloc_resource aligns to 8 bytes") };
    let init = sys::ErlNifResourceTypeInit {
        dtor: dtor::<T> as *const sys::ErlNifResourceDtor,
        stop: stop as *const sys::ErlNifResourceStop,
        down: down::<T> as *const sys::ErlNifResourceDown,
        members: 3,
        dyncall: std::ptr::null(),
    };
    let mut tried = MaybeUninit::uninit();
    // SAFETY: erl_nif, "enif_init_resource_type": called during load, with a NUL-terminated name; `init`
    // is copied; the callbacks are functions of this library, which is never unloaded.
    let pointer = unsafe {
        sys::enif_init_resource_type(
            env.as_c_arg(),
            T::NAME.as_ptr().cast::<c_char>(),
            &raw const init,
            sys::ErlNifResourceFlags::ERL_NIF_RT_CREATE,
            tried.as_mut_ptr(),
        )
    };
    !pointer.is_null() && T::resource_type().0.set(pointer as usize).is_ok()
}

/// A counted reference to a resource.
pub(crate) struct Handle<T: Resource> {
    /// Invariant: points to an initialised `T` in a resource of `T::resource_type()`, of which this
    /// handle holds one reference.
    pointer: *const T,
    resource: PhantomData<T>,
}

// SAFETY: the VM counts references atomically (erl_nif, "enif_keep_resource"), and T is Send and Sync.
unsafe impl<T: Resource> Send for Handle<T> {}
// SAFETY: as above; a shared handle gives shared references to T only.
unsafe impl<T: Resource> Sync for Handle<T> {}

impl<T: Resource> Handle<T> {
    pub(crate) fn new(data: T) -> Self {
        // SAFETY: erl_nif, "enif_alloc_resource": the type is registered; the result is never null (the VM
        // ends when it has no memory) and aligned for any C type.
        let memory = unsafe { sys::enif_alloc_resource(T::resource_type().pointer(), size_of::<T>()) };
        let pointer = memory.cast::<T>();
        // SAFETY: freshly allocated, of the right size and alignment (asserted in `register`).
        unsafe { pointer.write(data) };
        Handle { pointer, resource: PhantomData }
    }

    pub(super) fn as_object(&self) -> *mut c_void {
        self.pointer.cast_mut().cast()
    }

    /// Monitors a process; `None` when it is not alive any more.
    pub(crate) fn monitor(&self, env: Env<'_>, pid: &LocalPid) -> Option<Monitor> {
        let mut monitor = MaybeUninit::uninit();
        // SAFETY: erl_nif, "enif_monitor_process": the object is a resource with a `down` callback, env is
        // the caller's, pid a local one.
        let result = unsafe {
            sys::enif_monitor_process(env.as_c_arg(), self.as_object(), pid.as_c_arg(), monitor.as_mut_ptr())
        };
        if result != 0 {
            return None;
        }
        // SAFETY: the call succeeded, so it has filled the monitor.
        Some(Monitor::from_c_arg(unsafe { monitor.assume_init() }))
    }

    /// Ends a monitor. Without effect when it has fired or is firing.
    pub(crate) fn demonitor(&self, env: Env<'_>, monitor: &Monitor) {
        // SAFETY: erl_nif, "enif_demonitor_process": a monitor of this object; one that has fired is
        // reported, not touched.
        unsafe { sys::enif_demonitor_process(env.as_c_arg(), self.as_object(), monitor.as_c_arg()) };
    }
}

impl<T: Resource> Clone for Handle<T> {
    fn clone(&self) -> Self {
        // SAFETY: the object is alive, for this handle holds a reference.
        unsafe { sys::enif_keep_resource(self.as_object()) };
        Handle { pointer: self.pointer, resource: PhantomData }
    }
}

impl<T: Resource> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that this handle holds.
        unsafe { sys::enif_release_resource(self.as_object()) };
    }
}

impl<T: Resource> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: see the invariant of `pointer`.
        unsafe { &*self.pointer }
    }
}

impl<T: Resource> Encoder for Handle<T> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: erl_nif, "enif_make_resource": the object is alive; the term takes a reference of its own.
        let term = unsafe { sys::enif_make_resource(env.as_c_arg(), self.as_object()) };
        // SAFETY: the term was just made in this environment.
        unsafe { Term::new(env, term) }
    }
}

impl<'a, T: Resource> rustler::Decoder<'a> for Handle<T> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let mut object = MaybeUninit::uninit();
        // SAFETY: erl_nif, "enif_get_resource": fails for every term that is not a resource of this type.
        let found = unsafe {
            sys::enif_get_resource(
                term.get_env().as_c_arg(),
                term.as_c_arg(),
                T::resource_type().pointer(),
                object.as_mut_ptr(),
            )
        };
        if found == 0 {
            return Err(Error::BadArg);
        }
        // SAFETY: the call succeeded, so it has set the pointer.
        let object = unsafe { object.assume_init() };
        // SAFETY: the term keeps the object alive during this call; from here on our reference does.
        unsafe { sys::enif_keep_resource(object) };
        Ok(Handle { pointer: object.cast(), resource: PhantomData })
    }
}

/// The process that called the NIF.
pub(crate) fn self_pid(env: Env<'_>) -> LocalPid {
    env.pid()
}

/// Sends `{:select, resource, ref, :closed}`: the wake-up that `enif_select` does not send when the fd is
/// closed under a waiting process.
pub(crate) fn send_closed<T: Resource>(
    env: Env<'_>,
    handle: &Handle<T>,
    pid: &LocalPid,
    reference: Term<'_>,
) {
    let message = (crate::atoms::select(), handle, reference.in_env(env), crate::atoms::closed()).encode(env);
    // SAFETY: erl_nif, "enif_send": with no message environment the term is copied out of `env`, which is
    // that of a NIF call or of a callback. A dead receiver is no error for us.
    unsafe {
        sys::enif_send(env.as_c_arg(), pid.as_c_arg(), std::ptr::null_mut(), message.as_c_arg());
    }
}

/// The last reference is gone. No select is armed: an armed one holds a reference.
unsafe extern "C" fn dtor<T: Resource>(_env: *mut sys::ErlNifEnv, object: *mut c_void) {
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: erl_nif, "ErlNifResourceDtor": called once, last; the data is dropped in place.
        unsafe { object.cast::<T>().drop_in_place() };
    }));
    // Nobody is there to be told, and unwinding must not go on into C.
    drop(dropped);
}

/// `ERL_NIF_SELECT_STOP` was called and the VM does not use the fd any more: the one place where an fd
/// that was ever armed is closed.
unsafe extern "C" fn stop(
    _env: *mut sys::ErlNifEnv,
    _object: *mut c_void,
    fd: sys::ErlNifEvent,
    _is_direct_call: std::ffi::c_int,
) {
    let fd: RawFd = fd;
    // SAFETY: `select::stop` gave up the ownership of this fd for this call.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

unsafe extern "C" fn down<T: Resource>(
    env: *mut sys::ErlNifEnv,
    object: *mut c_void,
    _pid: *const sys::ErlNifPid,
    monitor: *const sys::ErlNifMonitor,
) {
    let called = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the environment is valid during the callback, which is longer than `env` lives.
        let env = unsafe { Env::new(&env, env) };
        // SAFETY: erl_nif, "ErlNifResourceDown": points to the monitor that fired.
        let monitor = Monitor::from_c_arg(unsafe { *monitor });
        // SAFETY: the object is alive during the callback; the handle takes a reference of its own.
        unsafe { sys::enif_keep_resource(object) };
        let handle = Handle { pointer: object.cast::<T>(), resource: PhantomData };
        T::down(&handle, env, &monitor);
    }));
    drop(called);
}
