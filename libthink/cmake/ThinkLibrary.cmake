find_package(Threads REQUIRED)
find_package(Eigen3 3.3 QUIET NO_MODULE)
if(NOT TARGET Eigen3::Eigen)
  find_path(THINK_EIGEN_INCLUDE Eigen/Cholesky PATH_SUFFIXES eigen3 PATHS /usr/include)
  if(NOT THINK_EIGEN_INCLUDE)
    message(FATAL_ERROR "libthink needs the Eigen headers (Debian: libeigen3-dev)")
  endif()
  add_library(Eigen3::Eigen INTERFACE IMPORTED)
  target_include_directories(Eigen3::Eigen SYSTEM INTERFACE ${THINK_EIGEN_INCLUDE})
endif()

set(THINK_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers)
file(GLOB THINK_CORE_SOURCES CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_SOURCE_DIR}/libthink/api/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/libthink/core/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/libthink/cache/*.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/libthink/store/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/libthink/backend/*.cpp)

# The objects are shared by the library and by the tests, which look behind the C ABI.
add_library(think_objects OBJECT ${THINK_CORE_SOURCES} ${THINK_KERNEL_SOURCES})
target_include_directories(think_objects PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(think_objects PUBLIC ${THINK_ISA_DEFINITIONS})
target_compile_options(think_objects PRIVATE ${THINK_WARNINGS})
target_link_libraries(think_objects PUBLIC Threads::Threads PRIVATE Eigen3::Eigen)

# The double-precision reference of every stage: for tests and `think selftest`, never inside the library.
add_library(think_reference STATIC EXCLUDE_FROM_ALL ${THINK_REFERENCE_SOURCES})
target_include_directories(think_reference PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(think_reference PRIVATE ${THINK_WARNINGS})

add_library(think SHARED $<TARGET_OBJECTS:think_objects>)
add_library(think::think ALIAS think)
target_include_directories(think PUBLIC
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(think PROPERTIES VERSION 1.${PROJECT_VERSION} SOVERSION 1 EXPORT_NAME think
  LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/libthink/abi/think.map)
target_link_options(think PRIVATE
  -static-libstdc++ -static-libgcc
  LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/libthink/abi/think.map
  LINKER:--exclude-libs,ALL LINKER:--as-needed LINKER:-z,defs LINKER:-z,nodelete)
target_link_libraries(think PRIVATE Threads::Threads)

include(CMakePackageConfigHelpers)
install(TARGETS think EXPORT thinkTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT devel
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel FILES_MATCHING PATTERN "*.h")
install(FILES bindings/think.json DESTINATION ${CMAKE_INSTALL_DATADIR}/think COMPONENT devel)
install(EXPORT thinkTargets NAMESPACE think:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/think COMPONENT devel)
configure_package_config_file(libthink/cmake/thinkConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/thinkConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/think)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/thinkConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/thinkConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/thinkConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/think COMPONENT devel)
# The prefix counts from where think.pc lies: `cmake --install --prefix` may put the tree anywhere.
if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR} OR IS_ABSOLUTE ${CMAKE_INSTALL_INCLUDEDIR})
  set(THINK_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
  set(THINK_PC_LIBDIR ${CMAKE_INSTALL_FULL_LIBDIR})
  set(THINK_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_INCLUDEDIR})
else()
  file(RELATIVE_PATH THINK_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
  set(THINK_PC_PREFIX "\${pcfiledir}/${THINK_PC_PREFIX}")
  set(THINK_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(THINK_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(libthink/cmake/think.pc.in ${CMAKE_CURRENT_BINARY_DIR}/think.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/think.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT devel)
