"""The paper's user study (Gandikota et al., ICCV 2023, section 5.1.2) as a web page on this machine."""
