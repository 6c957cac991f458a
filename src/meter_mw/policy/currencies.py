"""The currencies of ISO 4217, and how many decimals the smallest amount of each has.

Source: ISO 4217 amendment list, table A.1 ("Current currency & funds code list"), as of 2026. Codes for
metals, testing and units of account are left out: nobody is billed in them.
"""

from __future__ import annotations

from dataclasses import dataclass

_TWO = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC
CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR
JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD
NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"

DECIMALS = {
    **dict.fromkeys(_TWO.split(), 2),
    **dict.fromkeys(_NONE.split(), 0),
    **dict.fromkeys(_THREE.split(), 3),
}
"""The decimals of each currency's smallest amount: 2 for USD (a cent), 0 for JPY, 3 for KWD."""


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency that bills are in, by its three letters."""

    code: str

    def __post_init__(self) -> None:
        """Refuse what is no currency."""
        if self.code not in DECIMALS:
            raise ValueError(f"found the currency {self.code!r}; expected a code of ISO 4217, such as USD")

    @property
    def decimals(self) -> int:
        """How many decimals an amount of it has."""
        return DECIMALS[self.code]
