//! The library that runs is the one that was declared, and think.json says the same about both.

use think_sys::*;

#[test]
fn versions_agree() {
    load().unwrap();
    unsafe {
        assert_eq!(think_abi_version(), THINK_ABI_MAJOR);
        assert_eq!(think_version(), THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH);
    }
}

#[test]
fn every_struct_is_stamped_by_its_init_function() {
    assert_eq!(think_problem::default().struct_size as usize, size_of::<think_problem>());
    assert_eq!(think_format::default().key_layout, THINK_TILES);
    assert_eq!(think_error::default().struct_size as usize, size_of::<think_error>());
}

#[test]
fn an_error_says_what_is_wrong() {
    let mut error = think_error::default();
    let mut plan = std::ptr::null_mut();
    let mut context = std::ptr::null_mut();
    unsafe {
        assert_eq!(think_context_create(std::ptr::null(), &mut context, &mut error), THINK_OK);
        assert_eq!(think_plan_create(context, &think_problem::default(), &mut plan, &mut error), THINK_E_ARGUMENT);
        think_context_destroy(context);
        assert_eq!((error.code, error.argument), (THINK_E_ARGUMENT, 2));
        let text = std::ffi::CStr::from_ptr(error.message.as_ptr()).to_str().unwrap();
        assert!(text.starts_with("problem->"), "{text}");
    }
}
