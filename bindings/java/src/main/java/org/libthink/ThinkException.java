package org.libthink;

import java.nio.charset.StandardCharsets;

/** A call of the library failed. The message is the library's, and names the argument, what was expected and what was found. */
public final class ThinkException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final String function;
  private final int code;
  private final int argument;
  private final int nativeCode;

  ThinkException(String function, int code, int argument, int nativeCode, byte[] message) {
    super(new String(message, StandardCharsets.UTF_8));
    this.function = function;
    this.code = code;
    this.argument = argument;
    this.nativeCode = nativeCode;
  }

  /** The status: Constants.E_... */
  public int code() { return code; }

  /** Name of the status: THINK_E_ARGUMENT. */
  public String codeName() { return Think.statusName(code); }

  /** Position of the wrong argument in the C function, counted from 1; 0 = none in particular. */
  public int argument() { return argument; }

  /** Error of the device's or stream's own interface; 0 = none. */
  public int nativeCode() { return nativeCode; }

  /** The C function that failed. */
  public String function() { return function; }
}
