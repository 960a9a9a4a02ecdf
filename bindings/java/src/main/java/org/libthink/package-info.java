/** The C library libthink for Java: contexts, plans with every stage on the caller's memory, and the managed cache. */
package org.libthink;
