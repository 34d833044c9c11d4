"""What PJSIP is told of a request that the phone sends."""

from __future__ import annotations

from collections.abc import Mapping

import pjsua2 as pj

from mediaserver.phone.actions import Dtmf, SendInfo


def digits_request(action: Dtmf) -> pj.CallSendDtmfParam:
    request = pj.CallSendDtmfParam()
    request.digits = action.digits
    request.method = pj.PJSUA_DTMF_METHOD_SIP_INFO if action.method == "info" else pj.PJSUA_DTMF_METHOD_RFC2833
    return request


def info_request(info: SendInfo) -> pj.CallSendRequestParam:
    request = pj.CallSendRequestParam()
    request.method = "INFO"
    request.txOption.headers = _header_vector(info.headers)
    if info.body:
        request.txOption.contentType = info.content_type
        request.txOption.msgBody = info.body
    return request


def call_parameters(headers: Mapping[str, str]) -> pj.CallOpParam:
    parameters = pj.CallOpParam(True)
    parameters.opt.videoCount = 0
    parameters.txOption.headers = _header_vector(headers)
    return parameters


def _header_vector(headers: Mapping[str, str]) -> pj.SipHeaderVector:
    vector = pj.SipHeaderVector()
    for name, value in headers.items():
        header = pj.SipHeader()
        header.hName, header.hValue = name, value
        vector.append(header)
    return vector
