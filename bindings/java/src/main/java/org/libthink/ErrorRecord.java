// Written by bindings/tools/regenerate.sh from think.json: do not edit.
package org.libthink;

/**
 * What went wrong. Owned by the caller, usually on its stack; nothing is allocated and nothing is to be freed. Of a record that is passed in, only
 * struct_size is read. A call that succeeds leaves it untouched, a call that fails fills it. Messages name the argument by its full path
 * ("segments[2].key_basis-&gt;kept"), what was expected and what was found. Outputs of a call are untouched by THINK_E_ARGUMENT, THINK_E_UNSUPPORTED,
 * THINK_E_WORKSPACE and THINK_E_STATE. After THINK_E_MEMORY, THINK_E_DEVICE and THINK_E_INTERNAL they are undefined. The same holds for every struct
 * of this library: struct_size below that of version 0.9, or above 4096, is THINK_E_ARGUMENT; a larger struct than this build knows is accepted as
 * long as the part that it does not know is zero, and THINK_E_UNSUPPORTED otherwise. Unknown flags and reserved fields that are not zero are
 * THINK_E_ARGUMENT.
 */
public final class ErrorRecord extends Struct {
  static final int SIZE = 280;

  /** With what the library's init function says. */
  public ErrorRecord() {
    super(SIZE, 0);
    Native.think_error_init(this, SIZE);
  }

  ErrorRecord(Memory memory) { super(memory, 0); }

  /** 0 */
  public int flags() { return bytes.getInt(4); }

  public ErrorRecord flags(int value) {
    bytes.putInt(4, value);
    return this;
  }

  /** the status that was returned */
  public int code() { return bytes.getInt(8); }

  public ErrorRecord code(int value) {
    bytes.putInt(8, value);
    return this;
  }

  /** position of the offending argument, counted from 1; 0 = none in particular */
  public int argument() { return bytes.getInt(12); }

  public ErrorRecord argument(int value) {
    bytes.putInt(12, value);
    return this;
  }

  /** error of the device's own interface; 0 = none */
  public int nativeCode() { return bytes.getInt(16); }

  public ErrorRecord nativeCode(int value) {
    bytes.putInt(16, value);
    return this;
  }

  /** ends with 0 */
  public String message() { return text(20, 256); }

  public ErrorRecord message(String value) {
    text(20, 256, value);
    return this;
  }

  @Override
  public String toString() {
    return shown("ErrorRecord", "flags", flags(), "code", code(), "argument", argument(), "nativeCode", nativeCode(), "message", message());
  }
}
