package org.libthink.tests;

import org.libthink.Constants;
import org.libthink.Think;

/** Prints why CUDA can or cannot be used; the folder of the library, which is new each time, left out. */
final class Reason {
  private Reason() {}

  public static void main(String[] arguments) {
    System.out.println(Think.backendReason(Constants.DEVICE_CUDA).replaceAll("/\\S*(?=/libthink_cuda)", ""));
  }
}
