# Cross-compiles for 64-bit ARM with Debian's compiler and runs the tests under qemu: tools/check-deep aarch64.
# DIRIGO_SYSROOT holds the ARM libraries; headers without code come from this machine.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DIRIGO_SYSROOT)
list(PREPEND CMAKE_PREFIX_PATH ${DIRIGO_SYSROOT}/usr)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu
                                  -E LD_LIBRARY_PATH=${DIRIGO_SYSROOT}/usr/lib/aarch64-linux-gnu)
