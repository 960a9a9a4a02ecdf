package org.libthink;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;

/**
 * Finds and opens two files: libthink_jni.so, which belongs to these classes, and the C library, libthink.so.1.
 *
 * <ol>
 *   <li>-Dlibthink.path=FOLDER: both are there (libthink.so.1 may be named by 2 instead), and nothing else is looked at
 *   <li>the environment variable THINK_LIBRARY: the file of the C library
 *   <li>natives/SYSTEM-PROCESSOR/ on the class path or module path, in the jar: copied to a folder that only this user can read, in -Dlibthink.tmpdir or
 *       java.io.tmpdir, and deleted when the virtual machine ends
 * </ol>
 */
final class Library {
  private static final String JNI = "libthink_jni.so", CORE = "libthink.so.1", CUDA = "libthink_cuda.so.1";
  private static volatile String path;

  private Library() {}

  static String path() {
    Think.abiVersion();
    return path;
  }

  static void load() {
    String folder = System.getProperty("libthink.path"), core = System.getenv("THINK_LIBRARY");
    boolean named = core != null && !core.isEmpty();
    Path place = folder != null ? Path.of(folder).toAbsolutePath() : extract(named);
    Path jni = place.resolve(JNI);
    try {
      System.load(jni.toString());
    } catch (UnsatisfiedLinkError problem) {
      throw failure(jni, problem.getMessage(), folder != null);
    } catch (RuntimeException problem) { // IllegalCallerException, which Java 17 does not know: --illegal-native-access=deny
      throw (UnsatisfiedLinkError) new UnsatisfiedLinkError("libthink: native access is denied; run java with --enable-native-access="
          + (Library.class.getModule().isNamed() ? Library.class.getModule().getName() : "ALL-UNNAMED")).initCause(problem);
    }
    path = named ? core : place.resolve(CORE).toString();
    try {
      NativeJNI.open(path);
    } catch (UnsatisfiedLinkError problem) {
      throw failure(Path.of(path), problem.getMessage(), folder != null || named);
    }
  }

  private static UnsatisfiedLinkError failure(Path file, String reason, boolean named) {
    String advice = named ? " (-Dlibthink.path or THINK_LIBRARY names it)" : "";
    if (isForeign(file)) // of such a file the system says that there is none
      advice = ": it is a library for another kind of processor";
    else if (reason.contains("failed to map segment") || reason.contains("Operation not permitted"))
      advice = ": the file system of " + file.getParent() + " allows no programs (noexec); name another folder with -Dlibthink.tmpdir=FOLDER";
    return new UnsatisfiedLinkError("libthink: " + reason + advice);
  }

  /** Is it an ELF file whose class or machine is not that of this process? */
  private static boolean isForeign(Path file) {
    try (InputStream in = Files.newInputStream(file); InputStream self = Files.newInputStream(Path.of("/proc/self/exe"))) {
      byte[] found = in.readNBytes(20), expected = self.readNBytes(20);
      return found.length == 20 && Arrays.equals(found, 0, 4, expected, 0, 4)
          && (found[4] != expected[4] || found[18] != expected[18] || found[19] != expected[19]);
    } catch (IOException problem) {
      return false;
    }
  }

  private static String platform() {
    String system = System.getProperty("os.name").toLowerCase(Locale.ROOT), processor = System.getProperty("os.arch");
    return (system.startsWith("mac") ? "macos" : system.split(" ")[0]) + "-" + (processor.equals("amd64") ? "x86_64" : processor);
  }

  /** Copies what the jars hold into a new folder. */
  private static Path extract(boolean coreIsNamed) {
    String from = "natives/" + platform() + "/";
    Path parent = Path.of(System.getProperty("libthink.tmpdir", System.getProperty("java.io.tmpdir"))).toAbsolutePath();
    try {
      if (open(from + JNI) == null)
        throw new UnsatisfiedLinkError("libthink: there is no " + from + JNI + " on the class path or module path: this jar was made for another system;"
            + " build one (bindings/java/README.md), or name a folder that holds " + JNI + " and " + CORE + " with -Dlibthink.path=FOLDER");
      Path folder = Files.createTempDirectory(parent, "libthink");
      folder.toFile().deleteOnExit();
      copy(from, JNI, folder);
      if (!coreIsNamed && !copy(from, CORE, folder))
        throw new UnsatisfiedLinkError("libthink: there is no " + from + CORE + " on the class path or module path; name the file with THINK_LIBRARY");
      copy(from, CUDA, folder);
      return folder;
    } catch (IOException problem) {
      throw (UnsatisfiedLinkError) new UnsatisfiedLinkError("libthink: cannot copy the library to " + parent
          + " (-Dlibthink.tmpdir=FOLDER names another place): " + problem).initCause(problem);
    }
  }

  private static boolean copy(String from, String name, Path folder) throws IOException {
    try (InputStream in = open(from + name)) {
      if (in == null) return false;
      Path to = folder.resolve(name);
      Files.copy(in, to);
      to.toFile().deleteOnExit();
      return true;
    }
  }

  /** Resources are not of a package, so a class loader finds them in any of its jars and modules. */
  private static InputStream open(String name) {
    ClassLoader loader = Library.class.getClassLoader();
    return loader == null ? ClassLoader.getSystemResourceAsStream(name) : loader.getResourceAsStream(name);
  }
}
